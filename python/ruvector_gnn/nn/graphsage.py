"""GraphSAGE on whole graphs and on mini-batches of sampled neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Block, Graph, Tensor
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.init import draw_seed, require_parts, require_positive
from ruvector_gnn.nn.module import Module
from ruvector_gnn.nn.sage import SAGELayer

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["GraphSAGE"]


class GraphSAGE(Module):
    """Inductive node embeddings by sampling and aggregating (Hamilton et al. 2017).

    `num_layers` of `SAGELayer`, `h_i = relu(W_l agg_j(h_j) + b + W_r h_i)`, the last without the relu and,
    with `normalize`, its rows divided by their norm, as in the authors' code. Hidden layers have `hidden_dim`
    values, `out_dim` unless given. Keys are `convs.{i}.*`, as PyTorch Geometric's.

    `model(x, graph)` takes `x (N, in_dim)` and gives `(N, out_dim)` from all neighbours;
    `forward_minibatch` gives the rows of some nodes from samples of `sample_sizes` neighbours: as many of the
    nodes' own as its first entry says, and so on outwards, -1 for all. Nodes that were not there in training
    are embedded as any others. An LSTM ends with the node's own neighbours (`lstm_padding=False` of
    `SAGELayer`), so that no node's result depends on the others of its batch.

    >>> import numpy as np, ruvector_gnn as rg
    >>> graph = rg.Graph.from_adjacency([[1, 2], [0], [0, 1]])
    >>> model, x = GraphSAGE(4, 2, sample_sizes=(-1, -1), seed=0), np.ones((3, 4))
    >>> model(x, graph).shape, model.forward_minibatch(x, graph, [2], seed=1).shape
    ((3, 2), (1, 2))
    """

    @typed
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_layers: int = 2,
        hidden_dim: int | None = None,
        aggregator: Literal["mean", "sum", "max", "lstm"] = "mean",
        sample_sizes: Sequence[int | None] = (10, 5),
        normalize: bool = True,
        *,
        seed: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        hidden_dim = out_dim if hidden_dim is None else hidden_dim
        require_positive(in_dim=in_dim, out_dim=out_dim, hidden_dim=hidden_dim)
        require_parts(num_layers=num_layers)
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        seed = draw_seed(seed)
        self.normalize, self.sample_sizes = normalize, tuple(sample_sizes)
        self.convs = Module()
        for number, (ins, outs) in enumerate(pairwise(dims)):
            layer = SAGELayer(ins, outs, aggregator, lstm_padding=False, seed=seed + 16 * number)
            setattr(self.convs, str(number), layer)

    @property
    def layers(self) -> list[SAGELayer]:
        """The layers, in the order in which they are applied."""
        return [layer for layer in self.convs._modules.values() if isinstance(layer, SAGELayer)]

    def forward(self, x: Input, graph: Graph) -> Tensor:
        """Embed every node from all its neighbours."""
        first, *others = self.layers
        hidden = first.forward(x, graph)
        for layer in others:
            hidden = layer.forward(hidden.relu(), graph)
        return self._finished(hidden)

    def forward_minibatch(self, x: Input, graph: Graph, batch_nodes: ArrayLike, seed: int) -> Tensor:
        """Embed `batch_nodes` from sampled neighbours: `(len(batch_nodes), out_dim)`, in the order given.

        `x (N, in_dim)` holds the features of all nodes of the graph; only the rows that the sample needs
        are read and must be finite, from a `np.memmap` too. Gradients flow to a Tensor. The sample is that
        of `graph.sample(batch_nodes, sample_sizes, seed)`; take another seed for each batch. Raises
        `ConfigError` unless there is a sample size per layer.
        """
        if len(self.sample_sizes) != len(self.layers):
            raise ConfigError(
                f"sample_sizes must have one entry per layer ({len(self.layers)}), got {self.sample_sizes}"
            )
        return self.forward_blocks(x, graph.sample(batch_nodes, self.sample_sizes, seed))

    def forward_blocks(self, x: Input, blocks: Sequence[Block]) -> Tensor:
        """As `forward_minibatch`, on blocks at hand: one per layer, in the order of `Graph.sample`."""
        first, *others = self.layers
        if not isinstance(blocks, Sequence) or not all(isinstance(block, Block) for block in blocks):
            raise ConfigError(f"blocks must be a sequence of Blocks, got {type(blocks).__name__}")
        if len(blocks) != 1 + len(others):
            raise ConfigError(f"blocks must be one per layer ({1 + len(others)}), got {len(blocks)}")
        hidden = from_table(first, x, blocks[0])
        for layer, block in zip(others, blocks[1:], strict=True):
            hidden = layer.forward(hidden.relu(), block)
        return self._finished(hidden)

    def _finished(self, hidden: Tensor) -> Tensor:
        return hidden.normalize() if self.normalize else hidden

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"sample_sizes={self.sample_sizes}, normalize={self.normalize}"


def from_table(layer: SAGELayer, x: Input, block: Block) -> Tensor:
    """Apply a layer to a block, given the features of all nodes."""
    parameters = list(layer.parameters())
    return _core.sage_table(x, block, parameters, layer.aggregator, layer.normalize, layer.lstm_padding)
