"""What the class form of every loss has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ruvector_gnn._core import Tensor

    Input: TypeAlias = ArrayLike | Tensor
    Reduction = Literal["mean", "sum", "none"]


class Loss:
    """A loss with its settings kept: they are its attributes, and its `repr`."""

    reduction: Reduction

    def __repr__(self) -> str:
        """Show the settings."""
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"
