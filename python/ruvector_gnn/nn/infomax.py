"""Deep Graph Infomax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ruvector_gnn import _core
from ruvector_gnn._arguments import as_tensor, typed
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.losses import deep_graph_infomax
from ruvector_gnn.nn.init import draw_seed, drawn, require_positive
from ruvector_gnn.nn.module import Module, Parameter, evaluation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ruvector_gnn.nn.init import Input

__all__ = ["DeepGraphInfomax"]


class DeepGraphInfomax(Module):
    """Deep Graph Infomax (Velickovic et al. 2019): embeddings without labels.

    An encoder learns rows `h_i` that agree with a summary of their graph, `s = sigmoid(mean_i h_i)`, where
    those of the same graph with its features shuffled among the nodes do not. A bilinear discriminator
    `D(h, s) = h^T W s` gives the logits for `losses.deep_graph_infomax`.

    Args:
        encoder: a module, `encoder(x, graph) -> (N, dim)`.
        dim: what the encoder gives per node. Without it the discriminator's `weight (dim, dim)` is made by
            the first forward pass, and asking for parameters before that raises `ConfigError`.
        seed: what the weight is drawn from.

    >>> import numpy as np
    >>> import ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1], [0], [3], [2]])
    >>> model = DeepGraphInfomax(rg.nn.GCNLayer(4, 2, seed=0), dim=2, seed=0)
    >>> model.loss(np.eye(4), graph, seed=0).backward()
    >>> model.embed(np.eye(4), graph).shape
    (4, 2)
    """

    weight: Parameter | None

    @typed
    def __init__(self, encoder: Module, dim: int | None = None, *, seed: int | None = None) -> None:
        """See the class."""
        super().__init__()
        self.encoder = encoder
        self._seed = draw_seed(seed)
        self.weight = None
        if dim is not None:
            require_positive(dim=dim)
            self._make_weight(dim)

    def _make_weight(self, dim: int) -> None:
        self.weight = drawn("glorot_uniform", (dim, dim), dim, dim, self._seed)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield each parameter once; raise `ConfigError` while the discriminator's width is unknown."""
        if self.weight is None:
            raise ConfigError("DeepGraphInfomax has no weight yet: give dim, or run it once before")
        return super().named_parameters()

    def load_state_dict(self, mapping: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Overwrite parameters, as `Module.load_state_dict`; an unknown width is the state's."""
        if self.weight is None and "weight" in mapping:
            self._make_weight(len(_core.as_array("weight", mapping["weight"])))
        super().load_state_dict(mapping, strict)

    def forward(self, x: Input, graph: Graph, seed: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Embed the graph and its corruption: `h (N, d)`, `h~ (N, d)` and the summary `s (d,)`.

        The rows of `x` are shuffled by `seed`, by default the next one of the sequence that `rg.manual_seed`
        restarts.
        """
        x = as_tensor("x", x)
        order = _core.permutation(len(x), draw_seed(seed))
        real: Tensor = self.encoder(x, graph)
        corrupted: Tensor = self.encoder(x.index_select(order), graph)
        if self.weight is None:
            self._make_weight(real.shape[-1])
        return real, corrupted, real.mean(0).sigmoid()

    def discriminate(self, h: Input, summary: Input) -> Tensor:
        """Score rows `(N, d)` against a summary `(d,)`: logits `h^T W s`, `(N,)`."""
        if self.weight is None:
            raise ConfigError("DeepGraphInfomax has no weight yet: give dim, or run it once")
        h = as_tensor("h", h)
        return h @ (self.weight @ summary)

    def loss(self, x: Input, graph: Graph, seed: int | None = None) -> Tensor:
        """Compute how badly rows of the graph are told from its corruption's, drawn as in `forward`."""
        real, corrupted, summary = self.forward(x, graph, seed)
        return deep_graph_infomax(self.discriminate(real, summary), self.discriminate(corrupted, summary))

    def embed(self, x: Input, graph: Graph) -> NDArray[np.float32]:
        """Embed the nodes without a tape and with dropout off: an array `(N, d)`."""
        with evaluation(self.encoder):
            embeddings: Tensor = self.encoder(x, graph)
        return embeddings.numpy()
