"""Losses against given targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import typed
from ruvector_gnn.losses.base import Loss

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ruvector_gnn._core import Tensor
    from ruvector_gnn.losses.base import Input, Reduction

__all__ = ["MSE", "BCEWithLogits", "CrossEntropy", "bce_with_logits", "cross_entropy", "mse"]


def cross_entropy(
    scores: Input, targets: ArrayLike | Sequence[Sequence[int]], reduction: Reduction = "mean"
) -> Tensor:
    """Softmax cross entropy: `logsumexp(s_i) - sum_j t_ij s_ij`, for `scores (N, C)`.

    `targets` are class numbers `(N,)` from 0 to `C - 1` (else `RowError`); or a list of lists, each row's
    classes sharing its target evenly; or a matrix `(N, C)` of weights, which need not sum to 1:
    `weights[labels][:, None] * one_hot` weighs classes.
    For some rows only, as in node classification, choose them first:
    `cross_entropy(scores.index_select(train), labels[train])`.

    >>> round(cross_entropy([[0.0, 0.0]], [1]).item(), 4)
    0.6931
    """
    return _core.cross_entropy(scores, targets, reduction)


def mse(x: Input, target: Input, reduction: Reduction = "mean") -> Tensor:
    """Squared error, `(x - target)^2` per value, for two tensors of one shape.

    Raises `ShapeError` for different shapes; gradients flow to both.

    >>> mse([1.0, 2.0], [0.0, 4.0]).item()
    2.5
    """
    return _core.mse(x, target, reduction)


def bce_with_logits(
    logits: Input, targets: Input, weights: Input | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Binary cross entropy on logits, `max(x, 0) - x t + ln(1 + e^-|x|)` per value.

    Exact for logits of any size. `logits` and `targets` have one shape, targets lie in [0, 1]
    (`ConfigError`); `weights`, which broadcast to that shape, multiply the single losses. The mean is over
    their number, as `torch.nn.functional.binary_cross_entropy_with_logits`. Gradients flow to all three.

    >>> round(bce_with_logits([0.0, 100.0], [1.0, 1.0], reduction="sum").item(), 4)
    0.6931
    """
    return _core.bce_with_logits(logits, targets, weights, reduction)


class CrossEntropy(Loss):
    """`cross_entropy` with its reduction kept.

    >>> CrossEntropy()
    CrossEntropy(reduction='mean')
    """

    @typed
    def __init__(self, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction = reduction

    def __call__(self, scores: Input, targets: ArrayLike | Sequence[Sequence[int]]) -> Tensor:
        """Compute the loss."""
        return cross_entropy(scores, targets, self.reduction)


class MSE(Loss):
    """`mse` with its reduction kept.

    >>> MSE("sum")([1.0, 2.0], [0.0, 4.0]).item()
    5.0
    """

    @typed
    def __init__(self, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction = reduction

    def __call__(self, x: Input, target: Input) -> Tensor:
        """Compute the loss."""
        return mse(x, target, self.reduction)


class BCEWithLogits(Loss):
    """`bce_with_logits` with its reduction kept.

    >>> round(BCEWithLogits()([0.0], [1.0]).item(), 4)
    0.6931
    """

    @typed
    def __init__(self, reduction: Reduction = "mean") -> None:
        """Keep the reduction."""
        self.reduction = reduction

    def __call__(self, logits: Input, targets: Input, weights: Input | None = None) -> Tensor:
        """Compute the loss."""
        return bce_with_logits(logits, targets, weights, self.reduction)
