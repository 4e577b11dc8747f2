"""Losses that pull some rows together and push others apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn.losses._base import Loss

if TYPE_CHECKING:
    from ruvector_gnn._core import Tensor
    from ruvector_gnn.losses._base import Input, Reduction

__all__ = ["DeepGraphInfomax", "InfoNCE", "deep_graph_infomax", "info_nce"]


def info_nce(
    anchors: Input,
    positives: Input,
    negatives: Input | None = None,
    temperature: float = 0.07,
    reduction: Reduction = "mean",
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018) on cosine similarities.

    `-mean_p ln(e^(s_p/t) / (sum_p' e^(s_p'/t) + sum_n e^(s_n/t)))` for `anchors (B, d)`, `positives (B, d)`
    or `(B, P, d)`, `negatives (B, K, d)` or shared `(K, d)`; without negatives the other anchors' positives
    are taken. `temperature` is from 1e-25 to 1e25 (`ConfigError`).

    >>> import numpy as np
    >>> round(info_nce(np.eye(2), np.eye(2), temperature=1.0).item(), 4)
    0.3133
    """
    return _core.info_nce(anchors, positives, negatives, temperature, reduction)


def deep_graph_infomax(positive: Input, negative: Input, reduction: Reduction = "mean") -> Tensor:
    """Deep Graph Infomax (Velickovic et al. 2019), on a discriminator's scores.

    `-1/(P + N) (sum_i ln sigmoid(p_i) + sum_j ln(1 - sigmoid(n_j)))` for the logits `positive (P,)` of the
    graph's nodes and `negative (N,)` of its corruption's; neither may be empty (`ShapeError`). Without
    reduction the positives' losses come first.

    >>> round(deep_graph_infomax([0.0], [0.0]).item(), 4)
    0.6931
    """
    return _core.deep_graph_infomax(positive, negative, reduction)


class InfoNCE(Loss):
    """`info_nce` with its temperature and reduction kept.

    >>> InfoNCE(temperature=0.1)
    InfoNCE(temperature=0.1, reduction='mean')
    """

    @typed
    def __init__(self, temperature: float = 0.07, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.temperature = _core.positive_number("temperature", temperature)
        self.reduction = reduction

    def __call__(self, anchors: Input, positives: Input, negatives: Input | None = None) -> Tensor:
        """Compute the loss."""
        return info_nce(anchors, positives, negatives, self.temperature, self.reduction)


class DeepGraphInfomax(Loss):
    """`deep_graph_infomax` with its reduction kept; `nn.DeepGraphInfomax` makes the scores.

    >>> round(DeepGraphInfomax("sum")([0.0], [0.0]).item(), 4)
    1.3863
    """

    @typed
    def __init__(self, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction = reduction

    def __call__(self, positive: Input, negative: Input) -> Tensor:
        """Compute the loss."""
        return deep_graph_infomax(positive, negative, self.reduction)
