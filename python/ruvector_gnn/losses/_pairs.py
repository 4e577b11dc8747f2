"""Losses that pull some pairs of rows together and push others apart."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

import numpy as np

from ruvector_gnn import _core
from ruvector_gnn._arguments import integer, typed
from ruvector_gnn.errors import ConfigError, ShapeError
from ruvector_gnn.losses._base import Loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from ruvector_gnn._core import Graph, Tensor
    from ruvector_gnn.losses._base import Input, Reduction

__all__ = [
    "ContrastiveLoss",
    "LocalContrastiveLoss",
    "MultiHopContrastiveLoss",
    "NeighborhoodContrastiveLoss",
    "TripletLoss",
    "contrastive",
    "local_contrastive",
    "multi_hop_contrastive",
    "neighborhood_contrastive",
    "triplet",
]


def contrastive(
    x1: Input, x2: Input, y: ArrayLike, margin: float = 1.0, *, reduction: Reduction = "mean"
) -> Tensor:
    r"""Contrastive loss on squared distances.

    .. math:: y\, d^2 + (1 - y) \max(0, m - d^2), \qquad d^2 = |x_1 - x_2|^2

    Parameters
    ----------
    x1, x2 : array_like or Tensor, shape (B, d)
        Pairs of rows.
    y : array_like of float, shape (B,)
        1 for similar pairs, 0 for dissimilar ones, or between.
    margin : float
        :math:`m`, the squared distance from which on dissimilar pairs cost nothing.
    reduction : {"mean", "sum", "none"}
        Over the pairs.

    Returns
    -------
    Tensor
        A scalar, or shape (B,).

    Raises
    ------
    ShapeError
        For shapes that differ, and for no rows.
    ConfigError
        For a margin below 0, and for `y` outside [0, 1].

    References
    ----------
    After Hadsell, Chopra & LeCun (2006), "Dimensionality reduction by learning an invariant mapping".

    Examples
    --------
    >>> contrastive([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.5, 0.0]], [1, 0], reduction="none").numpy()
    array([1.  , 0.75], dtype=float32)
    """
    return _core.contrastive(x1, x2, y, margin, reduction)


def triplet(
    anchors: Input,
    positives: Input,
    negatives: Input,
    margin: float = 1.0,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Triplet loss on squared distances.

    .. math:: \max(0, |a - p|^2 - |a - n|^2 + m)

    Parameters
    ----------
    anchors, positives, negatives : array_like or Tensor, shape (B, d)
        Row i of each makes a triplet.
    margin : float
        :math:`m`, not negative.
    reduction : {"mean", "sum", "none"}
        Over the triplets.

    Returns
    -------
    Tensor
        A scalar, or shape (B,).

    Raises
    ------
    ShapeError
        For shapes that differ, and for no rows.
    ConfigError
        For a margin below 0.

    References
    ----------
    Schroff, Kalenichenko & Philbin (2015), "FaceNet".

    Examples
    --------
    >>> triplet([[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]], margin=0.5).item()
    0.5
    """
    return _core.triplet(anchors, positives, negatives, margin, reduction)


def local_contrastive(
    embeddings: Input,
    edge_index: ArrayLike,
    labels: ArrayLike | None = None,
    margin: float = 1.0,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Contrastive loss on distances of pairs of nodes.

    .. math::
        d^2 \text{ for similar pairs}, \qquad \max(0, m - d)^2 \text{ for the others}, \qquad d = |h_i - h_j|

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        A row for each node.
    edge_index : array_like of int, shape (2, E)
        Pairs of nodes.
    labels : array_like of bool, 0 or 1, shape (E,), optional
        Which pairs are similar; by default all are.
    margin : float
        :math:`m`, the distance from which on dissimilar pairs cost nothing.
    reduction : {"mean", "sum", "none"}
        Over the pairs.

    Returns
    -------
    Tensor
        A scalar, or shape (E,). Where two rows are equal the gradient of their distance is 0.

    Raises
    ------
    ShapeError
        For shapes that differ, and for no pairs.
    RowError
        For a node outside `embeddings`.
    ConfigError
        For a margin below 0, and for labels other than 0 and 1.

    Examples
    --------
    >>> rows = [[0.0], [0.5], [2.0]]
    >>> local_contrastive(rows, [[0, 0], [1, 2]], [1, 0], margin=3.0, reduction="none").numpy()
    array([0.25, 1.  ], dtype=float32)
    """
    similar = None if labels is None else _flags("labels", labels)
    return _core.local_contrastive(embeddings, edge_index, similar, margin, reduction)


def _flags(name: str, values: ArrayLike) -> list[bool]:
    array = np.asarray(_core.as_array(name, values))
    if array.ndim != 1:
        raise ShapeError(f"{name} must have shape (E,), got {array.shape}")
    if not np.isin(array, (0, 1)).all():
        raise ConfigError(f"{name} must be 0 or 1, got {array[~np.isin(array, (0, 1))][0]}")
    flags: list[bool] = array.astype(bool).tolist()
    return flags


def neighborhood_contrastive(
    embeddings: Input,
    graph: Graph,
    non_neighbors: ArrayLike,
    temperature: float = 0.07,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""InfoNCE where the neighbours in a graph are the positives.

    .. math::
        \ln \sum_{c \in P_i \cup N_i} e^{s_{ic} / t} - \frac{1}{|P_i|} \sum_{p \in P_i} s_{ip} / t,
        \qquad s_{ij} = \cos(h_i, h_j)

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        A row for each node.
    graph : Graph
        The neighbours of node i, its row, are :math:`P_i`. Edge weights are ignored.
    non_neighbors : array_like of int, shape (N, K)
        Nodes that are :math:`N_i`; -1 marks a missing one.
    temperature : float
        :math:`t`, positive.
    reduction : {"mean", "sum", "none"}
        Over the nodes. The mean is over nodes with a neighbour; it is 0 if there are none.

    Returns
    -------
    Tensor
        A scalar, or shape (N,), with 0 for nodes without a neighbour.

    Raises
    ------
    ShapeError
        For another number of nodes.
    RowError
        For a node that is none.
    ConfigError
        For a temperature outside its domain.

    References
    ----------
    van den Oord, Li & Vinyals (2018), "Representation learning with contrastive predictive coding".

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_edge_index([[0, 1], [1, 0]], num_nodes=3)
    >>> rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    >>> round(neighborhood_contrastive(rows, graph, [[2], [2], [0]], temperature=1.0).item(), 4)
    0.3133
    """
    return _core.multi_hop_contrastive(embeddings, graph, [1.0], non_neighbors, temperature, reduction)


def multi_hop_contrastive(
    embeddings: Input,
    graph: Graph,
    hops: int,
    hop_weights: Sequence[float],
    non_neighbors: ArrayLike,
    temperature: float = 0.07,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""`neighborhood_contrastive` over several hops, :math:`\sum_h w_h\, l_i^{(h)}`.

    The positives of hop h are the nodes at just that distance.

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        A row for each node.
    graph : Graph
        Distances follow its rows.
    hops : int
        The greatest distance, at least 1.
    hop_weights : sequence of float, length `hops`
        :math:`w_h`, not negative; a hop that weighs 0 is left out.
    non_neighbors : array_like of int, shape (N, K)
        Negatives of each node; -1 marks a missing one.
    temperature : float
        Positive.
    reduction : {"mean", "sum", "none"}
        Over the nodes. The mean is over nodes with a positive at some hop; it is 0 if there are none.

    Returns
    -------
    Tensor
        A scalar, or shape (N,), with 0 for nodes without a positive.

    Raises
    ------
    ShapeError
        For another number of nodes or of weights.
    RowError
        For a node that is none.
    ConfigError
        For a temperature or a weight outside its domain, and for `hops` below 1.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> path = rg.Graph.from_edge_index([[0, 1, 1, 2], [1, 0, 2, 1]], num_nodes=3)
    >>> rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    >>> loss = multi_hop_contrastive(rows, path, 2, [1.0, 0.5], [[-1], [-1], [-1]], temperature=1.0)
    >>> round(loss.item(), 4)
    0.2711
    """
    if integer("hops", hops) < 1:
        raise ConfigError(f"hops must be at least 1, got {hops}")
    weights = _weights(hop_weights)
    if len(weights) != hops:
        raise ShapeError(f"hop_weights must have shape ({hops},), got ({len(weights)},)")
    return _core.multi_hop_contrastive(embeddings, graph, weights, non_neighbors, temperature, reduction)


def _weights(values: Sequence[float]) -> list[float]:
    array = np.asarray(_core.as_array("hop_weights", values))
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise ShapeError(f"hop_weights must be a sequence of numbers, got {reprlib.repr(values)}")
    return [float(weight) for weight in array]


class ContrastiveLoss(Loss):
    """`contrastive` with its settings kept.

    >>> ContrastiveLoss(margin=2.0)
    ContrastiveLoss(margin=2.0, reduction='mean')
    """

    @typed
    def __init__(self, *, margin: float = 1.0, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.margin, self.reduction = margin, reduction

    def __call__(self, x1: Input, x2: Input, y: ArrayLike) -> Tensor:
        """Compute the loss."""
        return contrastive(x1, x2, y, self.margin, reduction=self.reduction)


class TripletLoss(Loss):
    """`triplet` with its settings kept.

    >>> TripletLoss(margin=0.5)([[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]).item()
    0.5
    """

    @typed
    def __init__(self, *, margin: float = 1.0, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.margin, self.reduction = margin, reduction

    def __call__(self, anchors: Input, positives: Input, negatives: Input) -> Tensor:
        """Compute the loss."""
        return triplet(anchors, positives, negatives, self.margin, reduction=self.reduction)


class LocalContrastiveLoss(Loss):
    """`local_contrastive` with its settings kept.

    >>> LocalContrastiveLoss(margin=3.0)([[0.0], [2.0]], [[0], [1]], [0]).item()
    1.0
    """

    @typed
    def __init__(self, *, margin: float = 1.0, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.margin, self.reduction = margin, reduction

    def __call__(self, embeddings: Input, edge_index: ArrayLike, labels: ArrayLike | None = None) -> Tensor:
        """Compute the loss."""
        return local_contrastive(embeddings, edge_index, labels, self.margin, reduction=self.reduction)


class NeighborhoodContrastiveLoss(Loss):
    """`neighborhood_contrastive` with its settings kept.

    >>> NeighborhoodContrastiveLoss(temperature=0.1)
    NeighborhoodContrastiveLoss(temperature=0.1, reduction='mean')
    """

    @typed
    def __init__(self, *, temperature: float = 0.07, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.temperature = _core.positive_number("temperature", temperature)
        self.reduction = reduction

    def __call__(self, embeddings: Input, graph: Graph, non_neighbors: ArrayLike) -> Tensor:
        """Compute the loss."""
        return neighborhood_contrastive(
            embeddings, graph, non_neighbors, self.temperature, reduction=self.reduction
        )


class MultiHopContrastiveLoss(Loss):
    """`multi_hop_contrastive` with its settings kept.

    >>> MultiHopContrastiveLoss([1.0, 0.5])
    MultiHopContrastiveLoss(hop_weights=[1.0, 0.5], temperature=0.07, reduction='mean')
    """

    @typed
    def __init__(
        self, hop_weights: Sequence[float], *, temperature: float = 0.07, reduction: Reduction = "mean"
    ) -> None:
        """Keep the settings."""
        self.hop_weights = _weights(hop_weights)
        self.temperature = _core.positive_number("temperature", temperature)
        self.reduction = reduction

    def __call__(self, embeddings: Input, graph: Graph, non_neighbors: ArrayLike) -> Tensor:
        """Compute the loss."""
        return multi_hop_contrastive(
            embeddings,
            graph,
            len(self.hop_weights),
            self.hop_weights,
            non_neighbors,
            self.temperature,
            reduction=self.reduction,
        )
