"""Terms that make embeddings smooth on a graph, sparse, of one length, or of features that differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.losses._base import Loss

if TYPE_CHECKING:
    from ruvector_gnn._core import Graph, Tensor
    from ruvector_gnn.losses._base import Input, Reduction

__all__ = [
    "EmbeddingNormLoss",
    "LaplacianLoss",
    "OrthogonalityLoss",
    "SparsityLoss",
    "SpectralRegularization",
    "embedding_norm",
    "laplacian",
    "orthogonality",
    "project_to_sphere",
    "sparsity",
]


def laplacian(
    embeddings: Input, graph: Graph, normalized: bool = False, *, reduction: Reduction = "mean"
) -> Tensor:
    r"""Squared distances of joined nodes: the Laplacian's quadratic form, edge by edge.

    .. math:: w_{ij} |h_i - h_j|^2 \qquad\text{normalized}\qquad
        w_{ij} \left| \frac{h_i}{\sqrt{d_i}} - \frac{h_j}{\sqrt{d_j}} \right|^2

    The sum over an undirected graph, which holds both directions of each edge, is
    :math:`2 \operatorname{tr}(H^T L H)`.

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        A row for each node.
    graph : Graph
        Its weights are :math:`w`, 1 without; :math:`d_i` is the sum of row i.
    normalized : bool
        Whether to divide by degrees.
    reduction : {"mean", "sum", "none"}
        Over the edges; the mean of none is 0.

    Returns
    -------
    Tensor
        A scalar, or shape (E,), in the order of `graph.to_edge_index()`.

    Raises
    ------
    ShapeError
        For another number of nodes.
    ConfigError
        For negative weights with `normalized`.

    References
    ----------
    Belkin & Niyogi (2003), "Laplacian eigenmaps".

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_edge_index([[0, 1], [1, 0]], num_nodes=3)
    >>> laplacian([[0.0], [2.0], [9.0]], graph).item()
    4.0
    """
    if not isinstance(normalized, bool | np.bool_):
        raise ConfigError(f"normalized must be True or False, got {normalized!r}")
    return _core.laplacian(embeddings, graph, bool(normalized), reduction)


def sparsity(embeddings: Input, *, reduction: Reduction = "mean") -> Tensor:
    r"""Absolute values, :math:`|h|` (L1).

    Parameters
    ----------
    embeddings : array_like or Tensor
        Of any shape.
    reduction : {"mean", "sum", "none"}
        Over the values.

    Returns
    -------
    Tensor
        A scalar, or the shape of `embeddings`. At 0 the gradient is 0.

    Raises
    ------
    ShapeError
        For no values.

    Examples
    --------
    >>> sparsity([[1.0, -3.0]]).item()
    2.0
    """
    return _core.sparsity(embeddings, reduction)


def embedding_norm(embeddings: Input, target: float = 1.0, *, reduction: Reduction = "mean") -> Tensor:
    r"""Squared deviations of the lengths of rows, :math:`(|h_i| - r)^2`.

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        Rows.
    target : float
        :math:`r`, not negative.
    reduction : {"mean", "sum", "none"}
        Over the rows.

    Returns
    -------
    Tensor
        A scalar, or shape (N,). For a zero row the gradient is 0.

    Raises
    ------
    ShapeError
        For no rows.
    ConfigError
        For a negative target.

    Examples
    --------
    >>> embedding_norm([[3.0, 4.0]], 4.0).item()
    1.0
    """
    return _core.embedding_norm(embeddings, target, reduction)


def project_to_sphere(embeddings: Input, radius: float = 1.0) -> Tensor:
    r"""Rows at one length, :math:`r\, h_i / |h_i|`; zero rows stay zero.

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        Rows.
    radius : float
        :math:`r`, positive.

    Returns
    -------
    Tensor
        Shape (N, d).

    Raises
    ------
    ShapeError
        For another number of dimensions.
    ConfigError
        For a radius that is not positive.

    Examples
    --------
    >>> project_to_sphere([[3.0, 4.0], [0.0, 0.0]], 10.0).numpy()
    array([[6., 8.],
           [0., 0.]], dtype=float32)
    """
    return _core.project_to_sphere(embeddings, radius)


def orthogonality(embeddings: Input, *, reduction: Reduction = "mean") -> Tensor:
    r"""Squared deviations of the features' Gram matrix from the identity, :math:`(H^T H - I)^2`.

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        :math:`H`. Divide by the square root of N for features of unit variance.
    reduction : {"mean", "sum", "none"}
        Over the values of the matrix; the sum is the squared Frobenius norm.

    Returns
    -------
    Tensor
        A scalar, or shape (d, d).

    Raises
    ------
    ShapeError
        For no values.

    References
    ----------
    Brock, Lim, Ritchie & Weston (2017), "Neural photo editing with introspective adversarial networks".

    Examples
    --------
    >>> orthogonality([[1.0, 0.0], [0.0, 2.0]], reduction="sum").item()
    9.0
    """
    return _core.orthogonality(embeddings, reduction)


class LaplacianLoss(Loss):
    """`laplacian` with its settings kept.

    >>> LaplacianLoss()
    LaplacianLoss(normalized=False, reduction='mean')
    """

    @typed
    def __init__(self, *, normalized: bool = False, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.normalized, self.reduction = normalized, reduction

    def __call__(self, embeddings: Input, graph: Graph) -> Tensor:
        """Compute the loss."""
        return laplacian(embeddings, graph, self.normalized, reduction=self.reduction)


class SpectralRegularization(LaplacianLoss):
    """`laplacian` as a term of a loss, normalized by default.

    >>> SpectralRegularization()
    SpectralRegularization(normalized=True, reduction='mean')
    """

    @typed
    def __init__(self, *, normalized: bool = True, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        super().__init__(normalized=normalized, reduction=reduction)


class SparsityLoss(Loss):
    """`sparsity` with its reduction kept.

    >>> SparsityLoss(reduction="sum")([1.0, -3.0]).item()
    4.0
    """

    @typed
    def __init__(self, *, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction = reduction

    def __call__(self, embeddings: Input) -> Tensor:
        """Compute the loss."""
        return sparsity(embeddings, reduction=self.reduction)


class EmbeddingNormLoss(Loss):
    """`embedding_norm` with its settings kept.

    >>> EmbeddingNormLoss(target=4.0)([[3.0, 4.0]]).item()
    1.0
    """

    @typed
    def __init__(self, *, target: float = 1.0, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.target, self.reduction = target, reduction

    def __call__(self, embeddings: Input) -> Tensor:
        """Compute the loss."""
        return embedding_norm(embeddings, self.target, reduction=self.reduction)


class OrthogonalityLoss(Loss):
    """`orthogonality` with its reduction kept.

    >>> OrthogonalityLoss(reduction="sum")([[1.0, 0.0], [0.0, 2.0]]).item()
    9.0
    """

    @typed
    def __init__(self, *, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction = reduction

    def __call__(self, embeddings: Input) -> Tensor:
        """Compute the loss."""
        return orthogonality(embeddings, reduction=self.reduction)
