"""The position-based click model, fitted by expectation maximisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ruvector_gnn._arguments import integer
from ruvector_gnn._relevance import Triples
from ruvector_gnn.clicks._evidence import Bools, Evidence, Floats, evidence_of, totals
from ruvector_gnn.clicks._examination import bounded, examination_of
from ruvector_gnn.clicks._ragged import Int64s, frozen
from ruvector_gnn.errors import ConfigError

if TYPE_CHECKING:
    from ruvector_gnn.clicks._log import ClickLog

FEWEST_SHUFFLED = 200
"""Shuffled answers from which examination is read off them alone."""

MOST_PER_ENTRY, MOST_SHUFFLED_CLICKS = 20.0, 10.0
"""Impressions or clicks of one query beyond the first number weigh less each, so that their sum in the M step
is this; the second limits clicks in shuffled answers, from which examination is read off."""

# Beta priors, in clicks and in examinations without one: they only matter for logs of a few impressions.
_CLICK_PRIOR = ((4.0, 1.0), (0.5, 4.5))
_START = (0.7, 0.15)
_RELEVANT_AT_START = 0.2
_LEAST_PROBABILITY = 1e-3
_CONVERGED = 1e-7


@dataclass(frozen=True, eq=False)
class _Cells:
    """Impressions of each pair at each place, by weight, those of one pair after one another."""

    pair: Int64s
    """Number of each pair that was shown."""
    begins: Int64s
    """First cell of each of these pairs."""
    group: Int64s
    """For each cell, the place of its pair in `pair`."""
    place: Int64s
    clicked: Floats
    passed: Floats
    """Impressions without a click."""
    influence: Floats
    """What the M step multiplies the counts of a cell's entry with."""
    home: Int64s
    """For each pair its place in the order that was not shuffled, or `depth` if there was none."""


class PositionBiasedModel:
    r"""Tells relevance from position: EM for the position-based click model (Craswell et al. 2008).

    A user examines place :math:`r` with probability :math:`\theta_r` and clicks an examined row with
    :math:`a_1` if it is relevant to the query, else with :math:`a_0`: :math:`P(c = 1 \mid z) = \theta_r a_z`.
    Impressions of the same query (`ClickLog.merged`) share the relevance :math:`z` of a row. With
    :math:`\pi` the prior relevance by the place :math:`r_0` in the order that was not shuffled, the E step is

    .. math:: \operatorname{logit} z = \log \frac{\pi_{r_0}}{1 - \pi_{r_0}}
              + \sum_i \log \frac{P(c_i \mid 1)}{P(c_i \mid 0)}

    and the M step

    .. math:: a_1 = \frac{\sum z c}{\sum z E_1}, \qquad
              E_1 = c + (1 - c) \frac{\theta (1 - a_1)}{1 - \theta a_1},

    :math:`a_0` alike, and :math:`\pi` the mean of :math:`z` by :math:`r_0`. From 200 shuffled answers on,
    :math:`\theta` comes from their clicks by Poisson regression over places; otherwise it is the mean
    expected examination of each place. It is relative to the first place.

    Impressions or clicks beyond 20 of one query weigh less in the M step (clicks in shuffled answers beyond
    10): a robot that asks one query 10,000 times moves the parameters as 20 impressions do. Weak priors keep
    the estimates of tiny logs near :math:`a = (.8, .1)`.

    Parameters
    ----------
    max_rounds : int
        Rounds of EM at most; fewer if nothing changes any more.

    Attributes
    ----------
    examination : ndarray of float64, shape (depth,)
        :math:`\theta_r / \theta_1` of each place.
    click_rate : tuple of float
        :math:`(a_1, a_0)`: clicks on an examined row that is relevant, and on another one.
    posterior : Triples
        For each entry of `log.merged()` and each row shown for it the probability that it is relevant.
    rounds : int
        Rounds that were run.

    Examples
    --------
    >>> import numpy as np
    >>> import ruvector_gnn as rg
    >>> queries = np.random.default_rng(0).normal(size=(300, 8))
    >>> ranked = np.tile(np.arange(10), (300, 1))
    >>> log = rg.clicks.simulate(queries, ranked, [[i % 4] for i in range(300)], explore=0.3)
    >>> model = rg.clicks.PositionBiasedModel().fit(log)
    >>> bool(0.35 < model.examination[1] < 0.65)
    True
    """

    examination: Floats
    click_rate: tuple[float, float]
    posterior: Triples
    rounds: int

    def __init__(self, max_rounds: int = 60) -> None:
        """See the class."""
        if integer("max_rounds", max_rounds) < 1:
            raise ConfigError(f"max_rounds must be at least 1, got {max_rounds}")
        self._max_rounds = int(max_rounds)

    def fit(self, log: ClickLog) -> PositionBiasedModel:
        """Fit to the impressions of a log whose shown order is known; the others say nothing of position.

        Parameters
        ----------
        log : ClickLog
            Impressions; those without `shown`, and clicks on rows that were not shown, are left out.

        Returns
        -------
        PositionBiasedModel
            The model itself.

        Raises
        ------
        ConfigError
            If `log` is no `ClickLog`, or no impression of it has a shown row.
        """
        return self._fit(log, evidence_of(checked_log(log)))

    def _fit(self, log: ClickLog, evidence: Evidence) -> PositionBiasedModel:
        if not len(evidence.cell_pair):
            raise ConfigError("log: no impression says what was shown, which a position-based model needs")
        depth = int(evidence.cell_place.max()) + 1
        cells = _cells(log, evidence, depth)
        known = _shuffled_examination(log, evidence, depth)
        theta = 1.0 / np.arange(1, depth + 1) if known is None else known
        rates, prior = _START, np.full(depth + 1, _RELEVANT_AT_START)
        self.rounds = 0
        while self.rounds < self._max_rounds:
            self.rounds += 1
            relevance = _relevance(cells, theta, rates, prior)
            new_rates, new_theta = _maximise(cells, relevance, theta, rates)
            theta_before, rates_before = theta, rates
            rates, prior = new_rates, _prior(cells, relevance, depth)
            theta = new_theta if known is None else known
            change = max(np.abs(theta - theta_before).max(), *np.abs(np.subtract(rates, rates_before)))
            if change < _CONVERGED:
                break
        self.examination, self.click_rate = frozen(theta.copy()), rates
        relevance = _relevance(cells, theta, rates, prior)
        self.posterior = Triples(evidence.entry[cells.pair], evidence.row[cells.pair], relevance)
        return self

    def __repr__(self) -> str:
        """Return what was found."""
        if not hasattr(self, "rounds"):
            return "PositionBiasedModel(not fitted)"
        relevant, other = self.click_rate
        places = len(self.examination)
        return f"PositionBiasedModel({places} places, click_rate=({relevant:.2f}, {other:.2f}))"


def checked_log(log: object) -> ClickLog:
    """Return `log`; raise `ConfigError` unless it is a `ClickLog`."""
    from ruvector_gnn.clicks._log import ClickLog

    if not isinstance(log, ClickLog):
        raise ConfigError(f"log must be a ClickLog, got {type(log).__name__}")
    return log


def _cells(log: ClickLog, evidence: Evidence, depth: int) -> _Cells:
    weights = evidence.weight[evidence.cell_impression]
    keys, cell = np.unique(evidence.cell_pair * depth + evidence.cell_place, return_inverse=True)
    cell, place = cell.reshape(-1), keys % depth
    pair, begins, group = np.unique(keys // depth, return_index=True, return_inverse=True)
    shown = totals(cell, weights, len(keys))
    clicked = totals(cell, weights * evidence.cell_clicked, len(keys))
    influence = _influence(evidence, evidence.cell_clicked, MOST_PER_ENTRY)[evidence.entry[pair]]
    return _Cells(
        pair=pair,
        begins=begins,
        group=group.reshape(-1),
        place=place,
        clicked=clicked,
        passed=shown - clicked,
        influence=influence[group.reshape(-1)],
        home=_home(log, evidence, depth)[pair],
    )


def _home(log: ClickLog, evidence: Evidence, depth: int) -> Int64s:
    """Return the mean place of each pair in answers that were not shuffled, or `depth` without one."""
    plain = ~log.explored[evidence.cell_impression]
    pair, weights = evidence.cell_pair[plain], evidence.weight[evidence.cell_impression[plain]]
    counts = totals(pair, weights, len(evidence.entry))
    sums = totals(pair, weights * evidence.cell_place[plain], len(evidence.entry))
    return np.where(counts > 0, np.rint(sums / np.maximum(counts, 1e-9)), depth).astype(np.int64)


def _influence(evidence: Evidence, counted: Bools, most: float) -> Floats:
    """Return the factor that leaves each entry at most so many impressions, and so many counted clicks."""
    clicks = totals(
        evidence.entry[evidence.cell_pair[counted]],
        evidence.weight[evidence.cell_impression[counted]],
        len(evidence.merged),
    )
    return np.asarray(most / np.maximum(np.maximum(evidence.entry_weight, clicks), most))


def _shuffled_examination(log: ClickLog, evidence: Evidence, depth: int) -> Floats | None:
    """Return examination from shuffled answers alone, or None where there are too few."""
    counted = evidence.cell_clicked & log.explored[evidence.cell_impression]
    influence = _influence(evidence, counted, MOST_SHUFFLED_CLICKS)
    weights = evidence.weight * influence[evidence.merged.entry]
    if weights[log.explored & (log._shown.lengths > 0)].sum() < FEWEST_SHUFFLED:
        return None
    lengths, group = np.unique(log._shown.lengths, return_inverse=True)
    impression, place = evidence.cell_impression[counted], evidence.cell_place[counted]
    where = group.reshape(-1)[impression] * depth + place
    clicks = totals(where, weights[impression], len(lengths) * depth).reshape(len(lengths), depth)
    some = lengths > 0
    return examination_of(clicks[some], np.minimum(lengths[some], depth))


def _relevance(cells: _Cells, theta: Floats, rates: tuple[float, float], prior: Floats) -> Floats:
    """Return the E step: the posterior of each pair."""
    relevant, other = (np.clip(theta * rate, 1e-9, 1 - 1e-9) for rate in rates)
    terms = cells.clicked * np.log(relevant / other)[cells.place]
    terms += cells.passed * np.log((1 - relevant) / (1 - other))[cells.place]
    logits = np.log(prior / (1 - prior))[cells.home] + np.add.reduceat(terms, cells.begins)
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -500, 500))))


def _maximise(
    cells: _Cells, relevance: Floats, theta: Floats, rates: tuple[float, float]
) -> tuple[tuple[float, float], Floats]:
    """Return click rates and examination of the M step; all sums are by place first."""
    depth = len(theta)
    share = relevance[cells.group] * cells.influence
    found, examined = [], np.zeros(depth)
    for rate, weight, prior in zip(rates, (share, cells.influence - share), _CLICK_PRIOR, strict=True):
        clicked = totals(cells.place, weight * cells.clicked, depth)
        passed = totals(cells.place, weight * cells.passed, depth)
        expected = clicked + passed * theta * (1 - rate) / (1 - theta * rate)
        examined += expected
        found.append((clicked.sum() + prior[0]) / (expected.sum() + sum(prior)))
    shown = totals(cells.place, cells.influence * (cells.clicked + cells.passed), depth)
    relevant, other = (float(np.clip(rate, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)) for rate in found)
    # One impression more at each place, examined as it was thought to be.
    return (relevant, min(relevant, other)), bounded((examined + theta) / (shown + 1))


def _prior(cells: _Cells, relevance: Floats, depth: int) -> Floats:
    """Return the mean relevance by the place in the plain order, with two pairs of the overall mean more."""
    sums = totals(cells.home, relevance, depth + 1)
    counts = totals(cells.home, np.ones(len(relevance)), depth + 1)
    mean = relevance.mean()
    found: Floats = np.clip((sums + 2 * mean) / (counts + 2), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return found
