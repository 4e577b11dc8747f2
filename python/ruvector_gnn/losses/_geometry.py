"""Losses that keep the geometry of what is embedded: distances, angles, straight walks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn.losses._base import Loss

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ruvector_gnn._core import Tensor
    from ruvector_gnn.losses._base import Input, Reduction

__all__ = [
    "AnglePreservationLoss",
    "CurvatureLoss",
    "DistancePreservationLoss",
    "angle_preservation",
    "curvature",
    "distance_preservation",
]


def distance_preservation(
    embeddings: Input, x: Input, pairs: ArrayLike, *, reduction: Reduction = "mean"
) -> Tensor:
    r"""Squared differences of distances, :math:`(|h_i - h_j| - |x_i - x_j|)^2`.

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        :math:`h`.
    x : array_like or Tensor, shape (N, f)
        :math:`x`, what is embedded.
    pairs : array_like of int, shape (2, P)
        Pairs of rows.
    reduction : {"mean", "sum", "none"}
        Over the pairs.

    Returns
    -------
    Tensor
        A scalar, or shape (P,). Where two rows are equal the gradient of their distance is 0.

    Raises
    ------
    ShapeError
        For different numbers of rows, and for no pairs.
    RowError
        For a row that is none.

    References
    ----------
    Kruskal (1964), "Multidimensional scaling by optimizing goodness of fit to a nonmetric hypothesis".

    Examples
    --------
    >>> distance_preservation([[0.0], [1.0]], [[0.0, 0.0], [3.0, 0.0]], [[0], [1]]).item()
    4.0
    """
    return _core.geometry_preservation("distance", embeddings, x, pairs, reduction)


def angle_preservation(
    embeddings: Input, x: Input, pairs: ArrayLike, *, reduction: Reduction = "mean"
) -> Tensor:
    r"""Squared differences of cosines, :math:`(\cos(h_i, h_j) - \cos(x_i, x_j))^2`.

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        :math:`h`.
    x : array_like or Tensor, shape (N, f)
        :math:`x`, what is embedded.
    pairs : array_like of int, shape (2, P)
        Pairs of rows.
    reduction : {"mean", "sum", "none"}
        Over the pairs.

    Returns
    -------
    Tensor
        A scalar, or shape (P,). The cosine of a zero row is 0.

    Raises
    ------
    ShapeError
        For different numbers of rows, and for no pairs.
    RowError
        For a row that is none.

    Examples
    --------
    >>> angle_preservation([[1.0, 0.0], [0.0, 1.0]], [[1.0], [2.0]], [[0], [1]]).item()
    1.0
    """
    return _core.geometry_preservation("angle", embeddings, x, pairs, reduction)


def curvature(embeddings: Input, walks: ArrayLike, *, reduction: Reduction = "mean") -> Tensor:
    r"""Turns of walks, :math:`1 - \cos(h_j - h_i, h_k - h_j)` for each three nodes in a row.

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        A row for each node.
    walks : array_like of int, shape (W, L)
        Walks of nodes, as `Graph.random_walks` draws them; -1 ends a walk.
    reduction : {"mean", "sum", "none"}
        Over the turns.

    Returns
    -------
    Tensor
        A scalar, or one value for each turn, walk by walk: 0 where the walk goes straight on, 2 where it
        turns back, 1 where two nodes of the three have equal embeddings.

    Raises
    ------
    ShapeError
        If no walk has three nodes.
    RowError
        For a node that is none.

    References
    ----------
    Pei, Wei, Chang, Zhang & Yang (2020), "Curvature regularization to prevent distortion in graph embedding".

    Examples
    --------
    >>> curvature([[0.0], [1.0], [3.0]], [[0, 1, 2], [0, 1, 0]], reduction="none").numpy()
    array([0., 2.], dtype=float32)
    """
    return _core.curvature(embeddings, walks, reduction)


class DistancePreservationLoss(Loss):
    """`distance_preservation` with its reduction kept.

    >>> DistancePreservationLoss()([[0.0], [1.0]], [[0.0], [3.0]], [[0], [1]]).item()
    4.0
    """

    @typed
    def __init__(self, *, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction = reduction

    def __call__(self, embeddings: Input, x: Input, pairs: ArrayLike) -> Tensor:
        """Compute the loss."""
        return distance_preservation(embeddings, x, pairs, reduction=self.reduction)


class AnglePreservationLoss(Loss):
    """`angle_preservation` with its reduction kept.

    >>> AnglePreservationLoss()([[1.0, 0.0], [0.0, 1.0]], [[1.0], [2.0]], [[0], [1]]).item()
    1.0
    """

    @typed
    def __init__(self, *, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction = reduction

    def __call__(self, embeddings: Input, x: Input, pairs: ArrayLike) -> Tensor:
        """Compute the loss."""
        return angle_preservation(embeddings, x, pairs, reduction=self.reduction)


class CurvatureLoss(Loss):
    """`curvature` with its reduction kept.

    >>> CurvatureLoss()([[0.0], [1.0], [3.0]], [[0, 1, 2]]).item()
    0.0
    """

    @typed
    def __init__(self, *, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction = reduction

    def __call__(self, embeddings: Input, walks: ArrayLike) -> Tensor:
        """Compute the loss."""
        return curvature(embeddings, walks, reduction=self.reduction)
