"""What the impressions of a log say of pairs of an entry and a row, in flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ruvector_gnn.clicks._ragged import MISSING, Int64s, pair_keys

if TYPE_CHECKING:
    from ruvector_gnn.clicks._log import ClickLog, Session
    from ruvector_gnn.clicks._merge import MergedQueries

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Pairs, the cells in which they were shown, and their clicks.

    A cell is one place of one impression whose order was recorded. Arrays that begin with `cell_` have one
    value a cell, those that begin with `click_` one a click.
    """

    merged: MergedQueries
    entry: Int64s
    """Entry of each pair."""
    row: Int64s
    """Row of each pair."""
    weight: Floats
    """Weight of each impression: 1 over the number of impressions of the same entry in the same session."""
    cell_pair: Int64s
    cell_impression: Int64s
    cell_place: Int64s
    cell_clicked: Bools
    click_pair: Int64s
    click_impression: Int64s
    click_placed: Bools
    """Whether the row is among those recorded as shown."""

    @property
    def entry_weight(self) -> Floats:
        """Sum of the weights of each entry's impressions."""
        return totals(self.merged.entry, self.weight, len(self.merged))


def totals(groups: Int64s, values: npt.NDArray[Any], count: int) -> Floats:
    """Return the sum of the values of each of `count` groups."""
    return np.bincount(groups, values, minlength=count).astype(np.float64, copy=False)


def evidence_of(log: ClickLog) -> Evidence:
    """Return what a log says."""
    merged = log.merged()
    known = log._shown.values != MISSING
    cells, clicks = int(np.count_nonzero(known)), len(log._clicked.values)
    impression = np.concatenate([log._shown.owners[known], log._clicked.owners])
    row = np.concatenate([log._shown.values[known], log._clicked.values])
    _, first, pair = np.unique(
        pair_keys(merged.entry[impression], row), return_index=True, return_inverse=True
    )
    pair = pair.reshape(-1)
    # Rows are distinct within an impression's list, and so are clicks.
    _, where, counts = np.unique(pair_keys(impression, row), return_inverse=True, return_counts=True)
    is_both = counts[where.reshape(-1)] == 2
    return Evidence(
        merged=merged,
        entry=merged.entry[impression[first]],
        row=row[first],
        weight=_weights(merged.entry, log.sessions),
        cell_pair=pair[:cells],
        cell_impression=impression[:cells],
        cell_place=log._shown.places[known],
        cell_clicked=is_both[:cells],
        click_pair=pair[cells : cells + clicks],
        click_impression=impression[cells:],
        click_placed=is_both[cells:],
    )


def _weights(entry: Int64s, sessions: tuple[Session, ...] | None) -> Floats:
    weights = np.ones(len(entry))
    if sessions is None:
        return weights
    codes: dict[Session, int] = {}
    code = np.array([codes.setdefault(session, len(codes)) for session in sessions], dtype=np.int64)
    named = np.flatnonzero(code != codes.get(None, -1))
    _, group, counts = np.unique(
        pair_keys(entry[named], code[named]), return_inverse=True, return_counts=True
    )
    weights[named] = 1 / counts[group.reshape(-1)]
    return weights
