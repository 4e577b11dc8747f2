"""Losses: each a function, and a class that keeps its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._core import Tensor

__all__ = ["CrossEntropy", "InfoNCE", "cross_entropy", "info_nce"]

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(
    scores: ArrayLike | Tensor,
    targets: ArrayLike | Sequence[Sequence[int]],
    reduction: Reduction = "mean",
) -> Tensor:
    """Softmax cross entropy: `logsumexp(s_i) - sum_j t_ij s_ij`, for `scores (N, C)`.

    `targets` are class numbers `(N,)`; or a list of lists, each row's classes sharing its target evenly; or a
    matrix `(N, C)` of weights.

    >>> round(cross_entropy([[0.0, 0.0]], [1]).item(), 4)
    0.6931
    """
    return _core.cross_entropy(scores, targets, reduction)


def info_nce(
    anchors: ArrayLike | Tensor,
    positives: ArrayLike | Tensor,
    negatives: ArrayLike | Tensor | None = None,
    temperature: float = 0.07,
    reduction: Reduction = "mean",
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018) on cosine similarities.

    `-mean_p ln(e^(s_p/t) / (sum_p' e^(s_p'/t) + sum_n e^(s_n/t)))` for `anchors (B, d)`, `positives (B, d)`
    or `(B, P, d)`, `negatives (B, K, d)` or shared `(K, d)`; without negatives the other anchors' positives
    are taken.

    >>> import numpy as np
    >>> round(info_nce(np.eye(2), np.eye(2), temperature=1.0).item(), 4)
    0.3133
    """
    return _core.info_nce(anchors, positives, negatives, temperature, reduction)


class CrossEntropy:
    """`cross_entropy` with its reduction kept."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction: Reduction = reduction

    def __call__(
        self, scores: ArrayLike | Tensor, targets: ArrayLike | Sequence[Sequence[int]]
    ) -> Tensor:
        """Compute the loss."""
        return cross_entropy(scores, targets, self.reduction)

    def __repr__(self) -> str:
        """Show the settings."""
        return f"CrossEntropy(reduction={self.reduction!r})"


class InfoNCE:
    """`info_nce` with its temperature and reduction kept."""

    def __init__(self, temperature: float = 0.07, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.temperature = temperature
        self.reduction: Reduction = reduction

    def __call__(
        self,
        anchors: ArrayLike | Tensor,
        positives: ArrayLike | Tensor,
        negatives: ArrayLike | Tensor | None = None,
    ) -> Tensor:
        """Compute the loss."""
        return info_nce(anchors, positives, negatives, self.temperature, self.reduction)

    def __repr__(self) -> str:
        """Show the settings."""
        return f"InfoNCE(temperature={self.temperature}, reduction={self.reduction!r})"
