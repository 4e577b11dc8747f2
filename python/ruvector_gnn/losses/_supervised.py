"""Losses against given targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ruvector_gnn import _core
from ruvector_gnn._arguments import integer, typed
from ruvector_gnn.losses._base import Loss

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ruvector_gnn._core import Tensor
    from ruvector_gnn.losses._base import Input, Reduction

__all__ = ["MSE", "BCEWithLogits", "CrossEntropy", "bce_with_logits", "cross_entropy", "mse"]


def cross_entropy(
    scores: Input,
    targets: ArrayLike | Sequence[Sequence[int]],
    reduction: Reduction = "mean",
    *,
    weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Softmax cross entropy, with the options of `torch.nn.functional.cross_entropy`.

    .. math::
        -\sum_j w_j t_{ij} \ln \operatorname{softmax}(s_i)_j, \quad t = (1 - \epsilon)\, target + \epsilon / C

    Parameters
    ----------
    scores : array_like or Tensor, shape (N, C)
        :math:`s`, logits.
    targets : array_like
        Class numbers, shape (N,), from 0 to C - 1; or a list of lists, each row's classes sharing its target
        evenly; or a matrix (N, C) of shares, which need not sum to 1.
    reduction : {"mean", "sum", "none"}
        Over the rows. With class numbers the mean is divided by the weights of the rows' classes.
    weight : array_like of float, shape (C,), optional
        :math:`w`, not negative.
    ignore_index : int, optional
        Rows with this class number, which may be negative, have no loss. PyTorch's default is -100; here
        none is ignored unless it is asked for.
    label_smoothing : float
        :math:`\epsilon`, from 0 to 1 (Szegedy et al. 2016).

    Returns
    -------
    Tensor
        A scalar, or shape (N,).

    Raises
    ------
    ShapeError
        For shapes that do not fit.
    RowError
        For a class that is none.
    ConfigError
        For a setting outside its domain, for `ignore_index` with other targets than class numbers, and for
        a mean over rows of which none counts.

    Examples
    --------
    For some rows only, as in node classification, choose them first:
    `cross_entropy(scores.index_select(train), labels[train])`.

    >>> round(cross_entropy([[0.0, 0.0]], [1]).item(), 4)
    0.6931
    >>> round(cross_entropy([[0.0, 0.0], [9.0, 0.0]], [1, -1], ignore_index=-1).item(), 4)
    0.6931
    """
    ignored = None if ignore_index is None else integer("ignore_index", ignore_index)
    return _core.cross_entropy(scores, targets, reduction, weight, ignored, label_smoothing)


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
    """`cross_entropy` with its settings kept.

    >>> CrossEntropy(label_smoothing=0.1)
    CrossEntropy(reduction='mean', weight=None, ignore_index=None, label_smoothing=0.1)
    """

    @typed
    def __init__(
        self,
        reduction: Reduction = "mean",
        *,
        weight: ArrayLike | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        """Keep the settings."""
        self.reduction = reduction
        self.weight = None if weight is None else _core.constant("weight", weight).numpy()
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def __call__(self, scores: Input, targets: ArrayLike | Sequence[Sequence[int]]) -> Tensor:
        """Compute the loss."""
        return cross_entropy(
            scores,
            targets,
            self.reduction,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )


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
