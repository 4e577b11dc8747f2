"""Tensors with gradients: constructors, the switch of the tape, functions of several tensors."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._core import Tensor
from ruvector_gnn.errors import ConfigError

__all__ = ["no_grad", "tensor"]

P = ParamSpec("P")
R = TypeVar("R")


def tensor(array: ArrayLike | Tensor, requires_grad: bool = False) -> Tensor:
    """Make a tensor from an array-like of 0 to 3 dimensions.

    Values are converted to float32; NaN and infinity raise `ShapeError`.

    >>> x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad.numpy()
    array([2., 4., 6.], dtype=float32)
    """
    return Tensor(array, requires_grad)


class _Depth(threading.local):
    """How many `no_grad` blocks each thread is in, and whether it recorded before the first."""

    count = 0
    before = True


_DEPTH = _Depth()


class no_grad:
    """Record no operations on this thread: `with no_grad():`, or `@no_grad()` before a function.

    Blocks may be nested, and one object may be entered again and shared by threads. The tape records again
    once the thread has left all of its blocks. A decorated function that is a generator or a coroutine
    records nothing while it runs; between its steps its caller records as before. A `with` block inside
    such a function stays in force while the function is suspended.

    Raises `ConfigError` if it decorates an asynchronous generator, or if a thread leaves a block that it
    did not enter.

    >>> x = tensor(1.0, requires_grad=True)
    >>> with no_grad():
    ...     y = x.exp()
    >>> y.requires_grad
    False
    >>> @no_grad()
    ... def double(x):
    ...     return x + x
    >>> double(x).requires_grad, x.exp().requires_grad
    (False, True)
    """

    def __enter__(self) -> no_grad:
        """Switch the tape of this thread off."""
        if _DEPTH.count == 0:
            _DEPTH.before = _core.set_recording(False)
        _DEPTH.count += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Switch the tape of this thread back on when its last block ends."""
        if _DEPTH.count == 0:
            raise ConfigError("no_grad: this thread has not entered the block that it leaves")
        _DEPTH.count -= 1
        if _DEPTH.count == 0:
            _core.set_recording(_DEPTH.before)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each of its calls is a block of its own."""
        if inspect.isasyncgenfunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise ConfigError(
                "no_grad decorates functions, generators and coroutines; "
                f"{name} is an asynchronous generator: use `with no_grad():` inside it"
            )
        wrapper: Callable[..., Any]
        if inspect.isgeneratorfunction(function):

            def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
                return (yield from _Steps(cast("Any", function(*args, **kwargs))))

        elif inspect.iscoroutinefunction(function):

            async def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await _Steps(cast("Any", function(*args, **kwargs)).__await__())

        else:

            def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
                with no_grad():
                    return function(*args, **kwargs)

        return cast("Callable[P, R]", functools.wraps(function)(wrapper))


class _Steps(Generator[Any, Any, Any]):
    """A generator that records nothing while it runs, and as its caller does while it is suspended."""

    def __init__(self, steps: Generator[Any, Any, Any]) -> None:
        self._steps = steps

    def send(self, value: Any) -> Any:
        """Resume with a value."""
        with no_grad():
            return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """Resume with an exception."""
        with no_grad():
            return self._steps.throw(*error)

    def close(self) -> None:
        """End it where it is suspended."""
        with no_grad():
            self._steps.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        """Take the steps of a coroutine."""
        return self
