"""Arguments of a wrong type, refused as `ConfigError` that names them."""

from __future__ import annotations

import functools
import inspect
import operator
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec

import numpy as np
from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._core import Graph, Tensor
from ruvector_gnn.errors import ConfigError, ShapeError

__all__ = ["as_tensor", "integer", "typed", "whole_graph"]

P = ParamSpec("P")


def _is_integer(value: object) -> bool:
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating)


def _is_module(value: object) -> bool:
    from ruvector_gnn.nn.module import Module

    return isinstance(value, Module)


def _is_sequence(value: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and all(map(fits, value))


_TYPES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "int": ("an integer", _is_integer),
    "float": ("a number", _is_number),
    "bool": ("True or False", lambda value: isinstance(value, bool | np.bool_)),
    "str": ("a string", lambda value: isinstance(value, str)),
    "Graph": (
        "a Graph, as Graph.from_edge_index(edge_index, num_nodes) makes",
        lambda value: isinstance(value, Graph),
    ),
    "Module": ("a Module", _is_module),
    "Iterable[Module]": ("Modules", lambda value: isinstance(value, Iterable)),
    "Sequence[int | None]": (
        "a sequence of integers",
        lambda value: _is_sequence(value, lambda item: item is None or _is_integer(item)),
    ),
    "tuple[float, float]": (
        "a pair of numbers",
        lambda value: _is_sequence(value, _is_number) and len(value) == 2,  # type: ignore[arg-type]
    ),
}
"""By annotation: what an error calls the type, and the check. Others are checked where they are used."""


def _require(name: str, annotation: str, value: object) -> None:
    expected, fits = _TYPES[annotation]
    if not fits(value):
        hint = ", whose gradient would be lost" if isinstance(value, Tensor) else ""
        raise ConfigError(f"{name} must be {expected}, got {reprlib.repr(value)}{hint}")


def integer(name: str, value: object) -> int:
    """Return `value` as an `int`; raise `ConfigError` that calls it `name` if it is none."""
    _require(name, "int", value)
    return operator.index(value)  # type: ignore[arg-type]


def as_tensor(name: str, value: ArrayLike | Tensor) -> Tensor:
    """Return a Tensor as it is, and an array-like as a constant; errors call it `name`."""
    return value if isinstance(value, Tensor) else _core.constant(name, value)


def whole_graph(layer: str, graph: object) -> None:
    """Raise `ConfigError` unless `graph` is a Graph, `ShapeError` for a block: `layer` needs all nodes."""
    _require("graph", "Graph", graph)
    assert isinstance(graph, Graph)
    if graph.num_nodes != graph.num_sources:
        raise ShapeError(
            f"{layer}: graph must have as many sources as nodes, "
            f"got {graph.num_nodes} nodes and {graph.num_sources} sources"
        )


def typed(function: Callable[P, None]) -> Callable[P, None]:
    """Decorate a constructor: each argument must have the type of its annotation.

    Only the types of `_TYPES` are checked, and `None` where an annotation allows it.

    >>> class Layer:
    ...     @typed
    ...     def __init__(self, dim: int, bias: bool = True) -> None: ...
    >>> Layer(2.5)
    Traceback (most recent call last):
    ...
    ruvector_gnn.errors.ConfigError: dim must be an integer, got 2.5
    """
    parameters = inspect.signature(function).parameters
    wanted: dict[str, tuple[str, bool]] = {}
    for name, parameter in parameters.items():
        annotation = str(parameter.annotation)
        plain = annotation.removesuffix(" | None")
        plain = "str" if plain.startswith("Literal[") or plain in ("Reduction", "Score", "Kind") else plain
        if plain in _TYPES and parameter.kind is not parameter.VAR_POSITIONAL:
            wanted[name] = plain, annotation.endswith(" | None")
    names = tuple(parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
            annotation, optional = wanted.get(name, ("", True))
            if annotation and not (optional and value is None):
                _require(name, annotation, value)
        function(*args, **kwargs)

    return checked
