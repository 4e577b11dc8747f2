"""Layers whose attention heads have gates, and can be taken out."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from ruvector_gnn import _core
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.nn.init import filled, require_parts
from ruvector_gnn.nn.module import Module, Parameter

__all__ = ["HeadGated", "HeadGatedInside", "Part"]

Part = tuple[Module, str, int, int]
"""A module and the name of its parameter; the axis of the heads, and in how many groups they recur there."""


class HeadGated(Module):
    """Base class of attention layers: with `head_gates=True`, a learned factor per head (Michel et al. 2019).

    `head_gates (num_heads)` begins at 1 and scales each head's result. A penalty on its size, as in
    `loss + 0.01 * layer.head_gates.abs().sum()`, drives the gates of needless heads to 0; `prune_heads`
    then takes these heads out of all parameters, so that they are no longer computed.
    """

    num_heads: int
    head_gates: Parameter | None

    def _begin_heads(self, num_heads: int, head_gates: bool) -> None:
        require_parts(num_heads=num_heads)
        self.num_heads, self.first_heads = num_heads, num_heads
        self.kept_heads = list(range(num_heads))
        self.head_gates = filled(1.0, num_heads) if head_gates else None

    def _parts(self) -> list[Part]:
        """What consists of heads, besides the gates."""
        raise NotImplementedError

    def prune_heads(self, threshold: float = 0.01, keep: int | None = None) -> list[int]:
        """Take out the heads whose gate is within `threshold` of 0, or all but the `keep` of largest gates.

        The head of the largest gate always stays. The result of the layer keeps its width, and is what
        gates of exactly 0 for the heads taken out would give. Parameters become smaller ones: make
        optimizers anew, and before loading the weights into another layer, call its `select_heads` with
        this one's `kept_heads`.

        Returns:
            The heads that stay, by their numbers in the first layer (`kept_heads`).

        Raises:
            ConfigError: without `head_gates=True`, or for `keep < 1`.
        """
        if self.head_gates is None:
            raise ConfigError("prune_heads: the layer has no gates, make it with head_gates=True")
        if keep is not None and keep < 1:
            raise ConfigError(f"keep must be at least 1, got {keep}")
        sizes = np.abs(self.head_gates.numpy())
        order = np.argsort(-sizes, kind="stable")
        stay = order[:keep] if keep is not None else order[: max(1, int((sizes > threshold).sum()))]
        return self.select_heads([self.kept_heads[head] for head in sorted(stay.tolist())])

    def select_heads(self, heads: Sequence[int]) -> list[int]:
        """Keep only `heads`, by their numbers in the first layer, in any order; see `prune_heads`.

        Raises:
            ConfigError: without `head_gates=True`, or for heads that are not there.
        """
        if self.head_gates is None:
            raise ConfigError("select_heads: the layer has no gates, make it with head_gates=True")
        chosen = sorted({operator.index(head) for head in heads})
        if not chosen or not set(chosen) <= set(self.kept_heads):
            raise ConfigError(f"heads must be some of {self.kept_heads}, got {list(heads)}")
        places = [self.kept_heads.index(head) for head in chosen]
        parts: list[tuple[Module, str, Parameter]] = []
        for module, name, axis, groups in [*self._parts(), (self, "head_gates", 0, 1)]:
            taken = _core.take_heads(getattr(module, name), axis, groups, self.num_heads, places)
            parts.append((module, name, Parameter(taken, taken.requires_grad)))
        for module, name, parameter in parts:
            setattr(module, name, parameter)
        self.num_heads, self.kept_heads = len(chosen), chosen
        return list(chosen)


class HeadGatedInside(Module):
    """Base class of layers around one attention: its heads are theirs."""

    def _attention(self) -> HeadGated:
        raise NotImplementedError

    @property
    def num_heads(self) -> int:
        """The number of heads that are there."""
        return self._attention().num_heads

    @property
    def kept_heads(self) -> list[int]:
        """Their numbers in the first layer."""
        return self._attention().kept_heads

    @property
    def head_gates(self) -> Parameter | None:
        """The factors of the heads; a parameter of the attention."""
        return self._attention().head_gates

    def prune_heads(self, threshold: float = 0.01, keep: int | None = None) -> list[int]:
        """Take out heads of small gates; see `MultiheadAttention.prune_heads`."""
        return self._attention().prune_heads(threshold, keep)

    def select_heads(self, heads: Sequence[int]) -> list[int]:
        """Keep only `heads`; see `MultiheadAttention.select_heads`."""
        return self._attention().select_heads(heads)
