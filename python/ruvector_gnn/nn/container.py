"""Modules made of modules, numbered from 0."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ruvector_gnn._arguments import typed
from ruvector_gnn._core import Graph
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.module import Module

if TYPE_CHECKING:
    from ruvector_gnn.nn.init import Input

__all__ = ["ModuleList", "Sequential"]


class ModuleList(Module):
    """Modules by number, as `torch.nn.ModuleList`: their parameters are named `0.weight` and so on.

    >>> from ruvector_gnn import nn
    >>> layers = ModuleList([nn.Linear(2, 2), nn.Linear(2, 1)])
    >>> len(layers), list(layers.state_dict())
    (2, ['0.weight', '0.bias', '1.weight', '1.bias'])
    """

    @typed
    def __init__(self, modules: Iterable[Module] = ()) -> None:
        """See the class."""
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Add a module at the end."""
        if not isinstance(module, Module):
            raise ConfigError(f"modules must be Modules, got {type(module).__name__}")
        setattr(self, str(len(self)), module)

    def __len__(self) -> int:
        """Count the modules."""
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        """Yield the modules in order."""
        return iter(list(self._modules.values()))

    def __getitem__(self, number: int) -> Module:
        """Give the module of that number, counted from the end when negative."""
        return list(self._modules.values())[number]


class Sequential(ModuleList):
    """Modules one after the other, as `torch.nn.Sequential`.

    `model(x, graph)` hands the graph to every module whose `forward` has an argument named `graph`.

    >>> import ruvector_gnn as rg
    >>> from ruvector_gnn import nn
    >>> graph = rg.Graph.from_adjacency([[1], [0, 2], [1]])
    >>> model = Sequential(nn.GCNLayer(4, 8, seed=0), nn.ReLU(), nn.Linear(8, 2, seed=1))
    >>> model([[1.0] * 4] * 3, graph).shape
    (3, 2)
    >>> list(model.state_dict())
    ['0.bias', '0.lin.weight', '2.weight', '2.bias']
    """

    def __init__(self, *modules: Module) -> None:
        """See the class."""
        super().__init__(modules)

    def forward(self, x: Input, graph: Graph | None = None) -> Any:
        """Run the modules in order."""
        out: Any = x
        for number, module in enumerate(self):
            parameter = inspect.signature(module.forward).parameters.get("graph")
            if parameter is None:
                out = module(out)
            elif graph is None and parameter.default is inspect.Parameter.empty:
                raise ConfigError(f"graph is needed by module {number}, {type(module).__name__}, got none")
            else:
                out = module(out, graph=graph)
        return out
