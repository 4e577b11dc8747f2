"""Losses that ask embeddings to give features and edges back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ruvector_gnn import _core
from ruvector_gnn._arguments import integer, typed
from ruvector_gnn.losses._base import Loss

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ruvector_gnn._core import Graph, Tensor
    from ruvector_gnn.losses._base import Input, Reduction

    Score = Literal["cosine", "dot"]
    Kind = Literal["mse", "bce", "ce"]

__all__ = [
    "AdjacencyReconstruction",
    "FeatureReconstruction",
    "LinkPrediction",
    "SparseAdjacency",
    "adjacency_reconstruction",
    "feature_reconstruction",
    "link_prediction",
    "sparse_adjacency",
]


def link_prediction(
    embeddings: Input,
    pos_edges: ArrayLike,
    neg_edges: ArrayLike,
    score: Score = "cosine",
    reduction: Reduction = "mean",
) -> Tensor:
    """Binary cross entropy between edges that are there and pairs that are not.

    `-ln sigmoid(s_uv)` for `pos_edges`, `-ln(1 - sigmoid(s_uv))` for `neg_edges`, both `(2, E)`; `s_uv` is
    the cosine or the inner product of the rows u and v of `embeddings (N, d)`. Without reduction the losses
    of `pos_edges` come first. Raises `RowError` for a node out of range, `ShapeError` where there are no
    edges.

    >>> round(link_prediction([[1.0, 0.0], [0.0, 1.0]], [[0], [0]], [[0], [1]], score="dot").item(), 4)
    0.5032
    """
    return _core.link_prediction(embeddings, pos_edges, neg_edges, score, reduction)


def feature_reconstruction(
    x: Input, x_hat: Input, kind: Kind = "mse", reduction: Reduction = "mean"
) -> Tensor:
    """How well `x_hat` gives `x` back; both of one shape, gradients flow to both.

    `kind` says what features are: `"mse"`, numbers, squared error per value; `"bce"`, 0 and 1 or
    probabilities, from logits, binary cross entropy per value; `"ce"`, a distribution or counts per row, from
    logits, `-sum_j x_j ln softmax(x_hat)_j` per row.

    >>> feature_reconstruction([[1.0, 2.0]], [[1.0, 4.0]]).item()
    2.0
    """
    return _core.feature_reconstruction(x, x_hat, kind, reduction)


def adjacency_reconstruction(
    embeddings: Input, graph: Graph, positive_weight: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Binary cross entropy between `sigmoid(<z_i, z_j>)` and the edges of a graph (Kipf & Welling 2016).

    The loss is over all pairs `i < j`. Each pair counts once, and pairs of a node with itself do not count. A
    directed graph is read without directions: a pair is an edge if the graph has one in either direction.
    Weights and self loops are ignored. Time and memory grow with `N^2`; `sparse_adjacency` is for large
    graphs.

    Parameters
    ----------
    embeddings : array_like or Tensor, shape (N, d)
        The rows `z`, at least two.
    graph : Graph
        A graph of `N` nodes.
    positive_weight : float, default 1.0
        How often a pair that is an edge counts, from 1e-25 to 1e25. The number of other pairs per edge makes
        both sides weigh the same.
    reduction : {"mean", "sum", "none"}, default "mean"
        What becomes of the losses of the pairs.

    Returns
    -------
    Tensor
        A number; without reduction shape `(N * (N - 1) / 2,)`, row by row of the upper triangle, the order of
        `np.triu_indices(N, 1)`.

    Raises
    ------
    ShapeError
        If the shapes do not fit, or for fewer than two nodes.
    ConfigError
        For another `reduction`, or a `positive_weight` out of range.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [], []])
    >>> adjacency_reconstruction([[1.0], [2.0], [0.0]], graph, reduction="none").numpy().round(4)
    array([0.1269, 0.6931, 0.6931], dtype=float32)
    """
    return _core.adjacency_reconstruction(embeddings, graph, positive_weight, reduction)


def sparse_adjacency(
    embeddings: Input, edges: ArrayLike, num_negatives: int = 1, seed: int = 0, reduction: Reduction = "mean"
) -> Tensor:
    """As `adjacency_reconstruction`, over the edges `(2, E)` and `num_negatives` drawn pairs per edge.

    For an edge (u, v) pairs (u, w) are drawn evenly from the nodes w that no edge joins to u. Without
    reduction the losses of the edges come first. Raises `ConfigError` where all pairs are edges.

    >>> round(sparse_adjacency([[0.0], [0.0], [0.0]], [[0], [1]], num_negatives=2).item(), 4)
    0.6931
    """
    num_negatives, seed = integer("num_negatives", num_negatives), integer("seed", seed)
    return _core.sparse_adjacency(embeddings, edges, num_negatives, seed, reduction)


class LinkPrediction(Loss):
    """`link_prediction` with its score and reduction kept.

    >>> LinkPrediction(score="dot")
    LinkPrediction(score='dot', reduction='mean')
    """

    @typed
    def __init__(self, score: Score = "cosine", reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.score: Score = score
        self.reduction = reduction

    def __call__(self, embeddings: Input, pos_edges: ArrayLike, neg_edges: ArrayLike) -> Tensor:
        """Compute the loss."""
        return link_prediction(embeddings, pos_edges, neg_edges, self.score, self.reduction)


class FeatureReconstruction(Loss):
    """`feature_reconstruction` with its kind and reduction kept.

    >>> FeatureReconstruction(kind="bce")
    FeatureReconstruction(kind='bce', reduction='mean')
    """

    @typed
    def __init__(self, kind: Kind = "mse", reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.kind: Kind = kind
        self.reduction = reduction

    def __call__(self, x: Input, x_hat: Input) -> Tensor:
        """Compute the loss."""
        return feature_reconstruction(x, x_hat, self.kind, self.reduction)


class AdjacencyReconstruction(Loss):
    """`adjacency_reconstruction` with its weight and reduction kept.

    >>> AdjacencyReconstruction(positive_weight=10.0)
    AdjacencyReconstruction(positive_weight=10.0, reduction='mean')
    """

    @typed
    def __init__(self, positive_weight: float = 1.0, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.positive_weight = _core.positive_number("positive_weight", positive_weight)
        self.reduction = reduction

    def __call__(self, embeddings: Input, graph: Graph) -> Tensor:
        """Compute the loss."""
        return adjacency_reconstruction(embeddings, graph, self.positive_weight, self.reduction)


class SparseAdjacency(Loss):
    """`sparse_adjacency` with its settings kept; `seed` may be given for each call.

    >>> SparseAdjacency(num_negatives=5)
    SparseAdjacency(num_negatives=5, seed=0, reduction='mean')
    """

    @typed
    def __init__(self, num_negatives: int = 1, seed: int = 0, reduction: Reduction = "mean") -> None:
        """Keep the settings."""
        self.num_negatives = num_negatives
        self.seed = seed
        self.reduction = reduction

    def __call__(self, embeddings: Input, edges: ArrayLike, seed: int | None = None) -> Tensor:
        """Compute the loss, with pairs drawn from `seed`, else from the one kept."""
        drawn_from = self.seed if seed is None else seed
        return sparse_adjacency(embeddings, edges, self.num_negatives, drawn_from, self.reduction)
