"""Users whose behaviour is known: logs for tests and for planning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ruvector_gnn import _core
from ruvector_gnn._arguments import integer
from ruvector_gnn._relevance import Relevant, as_triples
from ruvector_gnn.clicks._log import ClickLog
from ruvector_gnn.clicks._ragged import MISSING, Int64s
from ruvector_gnn.errors import ConfigError, ShapeError

Examination = npt.ArrayLike | Callable[[Int64s], npt.ArrayLike]
_Bools = npt.NDArray[np.bool_]


def simulate(
    queries: npt.ArrayLike,
    ranked: npt.ArrayLike,
    relevant: Relevant,
    *,
    impressions: int = 5,
    users: Literal["position", "cascade"] = "position",
    examination: Examination | None = None,
    click_rates: tuple[float, float] = (0.9, 0.1),
    explore: float = 0.0,
    depth: int = 20,
    seed: int = 0,
) -> ClickLog:
    r"""Draw the clicks of simulated users.

    Position-based users examine the row at place :math:`r` with probability :math:`\theta_r`, whatever else
    is shown, and click an examined row with probability :math:`a_1` if it is relevant, else :math:`a_0`:

    .. math:: P(c_r = 1) = \theta_r\, a_{z_r}

    Cascade users (Craswell et al. 2008, "An experimental comparison of click position-bias models") examine
    rows from the top, click each with the same :math:`a_z`, and stop after their first click on a relevant
    row; a click on another row does not satisfy them, as in Chapelle & Zhang (2009).

    Parameters
    ----------
    queries : array_like of float, shape (n, dim)
        Queries.
    ranked : array_like of int, shape (n, d)
        Rows in the order that would be shown, best first; -1 marks missing places at the end.
    relevant : sequence, mapping, sparse matrix or Triples
        What each query looks for, in any form that `SearchLearner.fit` takes; a grade above 0 is relevant.
    impressions : int
        How often each query is asked.
    users : {"position", "cascade"}
        The model of users.
    examination : array_like of float or callable, optional
        :math:`\theta` of position-based users: probabilities of the places from the first, at least `depth`
        of them, or a function of places, which count from 1. By default 1 / place.
    click_rates : tuple of float
        :math:`(a_1, a_0)`.
    explore : float
        The share of answers that are shuffled before they are shown.
    depth : int
        How many rows are shown.
    seed : int
        Seed of all draws.

    Returns
    -------
    ClickLog
        `n * impressions` impressions; those of one query follow each other.

    Raises
    ------
    ShapeError
        If `ranked` or `examination` has another shape, or `relevant` another form.
    ConfigError
        For a parameter outside its domain.
    RowError
        For a row below -1 or one that stands twice in a list, and for the number of a query that is none.

    Examples
    --------
    >>> import numpy as np
    >>> import ruvector_gnn as rg
    >>> queries = np.eye(3)
    >>> log = rg.clicks.simulate(queries, [[4, 7, 2]] * 3, [[7], [4], []], impressions=100, explore=0.1)
    >>> len(log), bool(10 < log.explored.sum() < 50)
    (300, True)
    """
    _check_settings(impressions, users, examination, click_rates, explore, depth, seed)
    orders = _core.int64_array("ranked", ranked)
    asked = np.asarray(_core.as_array("queries", queries))
    if orders.ndim != 2 or asked.ndim != 2 or len(orders) != len(asked):
        raise ShapeError(f"ranked must be (n, d) for queries (n, dim), got {orders.shape} and {asked.shape}")
    random = np.random.default_rng(seed)
    orders = orders[:, :depth]
    if not orders.shape[1]:
        orders = np.full((len(orders), 1), MISSING)
    query = np.repeat(np.arange(len(asked)), impressions)
    shown, explored = _shuffled(orders[query], explore, random)
    is_relevant = _is_relevant(shown, query, relevant, len(asked))
    attracted = random.random(shown.shape) < np.where(is_relevant, *click_rates)
    attracted &= shown != MISSING
    if users == "cascade":
        clicked = _until_satisfied(attracted, is_relevant)
    else:
        clicked = attracted & (random.random(shown.shape) < _probabilities(examination, shown.shape[1]))
    lists = np.split(shown[clicked], np.cumsum(clicked.sum(axis=1))[:-1]) if len(query) else []
    return ClickLog(asked[query], shown, lists, explored=explored)


def _check_settings(
    impressions: int,
    users: str,
    examination: Examination | None,
    click_rates: tuple[float, float],
    explore: float,
    depth: int,
    seed: int,
) -> None:
    for name, value, least in (("impressions", impressions, 0), ("depth", depth, 1), ("seed", seed, 0)):
        if integer(name, value) < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    if users not in ("position", "cascade"):
        raise ConfigError(f"users must be 'position' or 'cascade', got {users!r}")
    if users == "cascade" and examination is not None:
        raise ConfigError("examination is a parameter of users='position': cascade users examine in order")
    rates = np.asarray(_core.as_array("click_rates", click_rates))
    if rates.shape != (2,) or rates.dtype.kind not in "fiu" or not ((rates >= 0) & (rates <= 1)).all():
        raise ConfigError(f"click_rates must be two probabilities, got {click_rates!r}")
    if isinstance(explore, bool) or not isinstance(explore, int | float | np.number) or not 0 <= explore <= 1:
        raise ConfigError(f"explore must be a number from 0 to 1, got {explore!r}")


def _probabilities(examination: Examination | None, depth: int) -> npt.NDArray[np.float64]:
    places = np.arange(1, depth + 1)
    if examination is None:
        return np.asarray(1 / places)
    given: Any = examination(places) if callable(examination) else examination
    values = _core.as_array("examination", given)
    if values.ndim != 1 or len(values) < depth or values.dtype.kind not in "fiu":
        raise ShapeError(f"examination must be at least {depth} numbers, got {values.dtype} {values.shape}")
    values = values[:depth].astype(np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ConfigError("examination must be probabilities, from 0 to 1")
    return values


def _shuffled(orders: Int64s, explore: float, random: np.random.Generator) -> tuple[Int64s, _Bools]:
    """Return the orders with a share of them shuffled, and which; missing places stay at the end."""
    explored: _Bools = random.random(len(orders)) < explore
    chosen = orders[explored]
    keys = np.where(chosen == MISSING, 2, random.random(chosen.shape))
    orders[explored] = np.take_along_axis(chosen, np.argsort(keys, axis=1), axis=1)
    return orders, explored


def _is_relevant(shown: Int64s, query: Int64s, relevant: Relevant, count: int) -> _Bools:
    judged = as_triples(relevant, count)
    rows, codes = np.unique(np.concatenate([shown.ravel(), judged.row]), return_inverse=True)
    codes = codes.reshape(-1)
    asked, wanted = codes[: shown.size].reshape(shown.shape), codes[shown.size :]
    found: _Bools = np.isin(query[:, np.newaxis] * len(rows) + asked, judged.query * len(rows) + wanted)
    return found


def _until_satisfied(attracted: _Bools, is_relevant: _Bools) -> _Bools:
    """Return the clicks up to the first one on a relevant row."""
    satisfied: Int64s = np.cumsum(attracted & is_relevant, axis=1)
    first_at_most = satisfied - (attracted & is_relevant) == 0
    return np.asarray(attracted & first_at_most, dtype=np.bool_)
