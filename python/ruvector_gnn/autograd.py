"""Tensors with gradients: constructors, the switch of the tape, functions of several tensors."""

from __future__ import annotations

from contextlib import ContextDecorator
from types import TracebackType

from numpy.typing import ArrayLike

from ruvector_gnn import _core
from ruvector_gnn._core import Tensor

__all__ = ["no_grad", "tensor"]


def tensor(array: ArrayLike | Tensor, requires_grad: bool = False) -> Tensor:
    """Make a tensor from an array-like of 0 to 3 dimensions.

    Values are converted to float32; NaN and infinity raise `ShapeError`.

    >>> x = tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad.numpy()
    array([2., 4., 6.], dtype=float32)
    """
    return Tensor(array, requires_grad)


class no_grad(ContextDecorator):
    """Record nothing on this thread's tape: `with no_grad():`, or as a decorator.

    >>> x = tensor(1.0, requires_grad=True)
    >>> with no_grad():
    ...     y = x.exp()
    >>> y.requires_grad
    False
    """

    def __enter__(self) -> no_grad:
        """Switch the tape off."""
        self._before = _core.set_recording(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Switch the tape as it was."""
        _core.set_recording(self._before)
