"""From a log to two sets of grades: what teaches, and what judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ruvector_gnn._relevance import Triples
from ruvector_gnn.clicks._evidence import Bools, Evidence, Floats, evidence_of, totals
from ruvector_gnn.clicks._model import PositionBiasedModel, checked_log
from ruvector_gnn.errors import ConfigError

if TYPE_CHECKING:
    from ruvector_gnn.clicks._log import ClickLog

FEWEST_JUDGED = 40
"""From so many entries with a click in a shuffled answer those alone judge, as the learner itself wants."""

LEAST_GRADE = 0.02
"""Clicked rows whose posterior is not above this teach nothing."""


@dataclass(frozen=True, eq=False)
class Judgements:
    """Grades that a log gives, for distinct queries.

    Attributes
    ----------
    queries : ndarray of float32, shape (m, dim)
        One entry for each distinct query, as `ClickLog.merged` numbers them.
    teach : Triples
        Grades to learn from, above 0 and at most 1, of clicked rows.
    judge : Triples or None
        Grades to judge by: in what share of an entry's shuffled answers the row was clicked, less the share
        in which a row that is not relevant would have been. None where fewer than 40 entries have a click in
        a shuffled answer.
    path : str
        How the grades were made: "plain clicks" or "position-based model", either with ", judged on shuffled
        answers" where `judge` is there.
    """

    queries: npt.NDArray[np.float32]
    teach: Triples
    judge: Triples | None
    path: str


def judgements(log: ClickLog, model: PositionBiasedModel | None = None) -> Judgements:
    r"""Make grades of clicks: everything teaches, and shuffled answers alone judge.

    Where some impression says what was shown, a clicked row has the grade :math:`z` of the position-based
    model, its posterior relevance, if it is above .02. Clicks at an unknown place (an impression without
    `shown`, a row that was not shown) are taken as given: their grade is the share of the entry's impressions
    with that click. A row with both has the greater grade.

    Clicks on answers in plain order agree with that order, so a model judged on them looks no better than
    it. In shuffled answers each row stands at each place equally often. Most clicks there may still be on
    rows that are not relevant, all of them among those shown; a ranking that leaves these would look worse
    than it is. Their expected share is taken off every row that was shown, so that rows without relevance
    count nothing on average:

    .. math:: g_{qd} = c_{qd} - b\,s_{qd}, \qquad b = \frac{\sum (1 - z) c}{\sum (1 - z) s}

    with the shares :math:`c` of an entry's shuffled answers in which a row was clicked and :math:`s` in which
    it was shown, over all entries that judge.

    Parameters
    ----------
    log : ClickLog
        Impressions. Rows that no longer exist are the caller's to drop; `VectorDB.log` does.
    model : PositionBiasedModel, optional
        A model without data of its own, which is fitted to `log`; by default `PositionBiasedModel()`.

    Returns
    -------
    Judgements
        Distinct queries, both sets of grades, and the path taken.

    Raises
    ------
    ConfigError
        If `log` is no `ClickLog`, or `model` no `PositionBiasedModel`.

    Examples
    --------
    >>> import ruvector_gnn as rg
    >>> found = rg.clicks.judgements(rg.ClickLog([[1, 0], [1, 0]], None, [[3, 5], [3]]))
    >>> found.path, found.teach.row, found.teach.grade
    ('plain clicks', array([3, 5]), array([1. , 0.5], dtype=float32))
    """
    if model is not None and not isinstance(model, PositionBiasedModel):
        raise ConfigError(f"model must be a PositionBiasedModel, got {type(model).__name__}")
    evidence = evidence_of(checked_log(log))
    loose = ~evidence.click_placed
    grade = _click_shares(evidence, loose, np.ones(len(log), dtype=np.bool_))
    path = "plain clicks"
    posterior = np.zeros(len(evidence.entry))
    if len(evidence.cell_pair):
        path = "position-based model"
        fitted = (model or PositionBiasedModel())._fit(log, evidence)
        posterior[np.unique(evidence.cell_pair)] = fitted.posterior.grade
        grade = np.maximum(grade, _taught(evidence, posterior))
    taught = np.flatnonzero(grade > 0)
    judge = _judging(log, evidence, posterior)
    if judge is not None:
        path += ", judged on shuffled answers"
    teach = Triples(evidence.entry[taught], evidence.row[taught], grade[taught])
    return Judgements(evidence.merged.queries, teach, judge, path)


def _click_shares(evidence: Evidence, chosen: Bools, counted: Bools) -> Floats:
    """Return, for each pair, the share of the entry's counted impressions with a chosen click on it."""
    weights = evidence.weight * counted
    impressions = totals(evidence.merged.entry, weights, len(evidence.merged))
    clicked = weights[evidence.click_impression[chosen]]
    clicks = totals(evidence.click_pair[chosen], clicked, len(evidence.entry))
    return np.asarray(clicks / np.maximum(impressions, 1e-9)[evidence.entry])


def _taught(evidence: Evidence, posterior: Floats) -> Floats:
    """Return the posterior of each pair that was clicked where it was shown, 0 where it is too small."""
    clicked = np.zeros(len(posterior), dtype=np.bool_)
    clicked[evidence.cell_pair[evidence.cell_clicked]] = True
    return np.where(clicked & (posterior > LEAST_GRADE), posterior, 0.0)


def _judging(log: ClickLog, evidence: Evidence, posterior: Floats) -> Triples | None:
    chosen = log.explored[evidence.click_impression]
    clicks = _click_shares(evidence, chosen, log.explored)
    judges = np.zeros(len(evidence.merged), dtype=np.bool_)
    judges[evidence.entry[clicks > 0]] = True
    if np.count_nonzero(judges) < FEWEST_JUDGED:
        return None
    weights = evidence.weight * log.explored
    impressions = totals(evidence.merged.entry, weights, len(evidence.merged))
    shown = totals(evidence.cell_pair, weights[evidence.cell_impression], len(evidence.entry))
    shown *= judges[evidence.entry] / np.maximum(impressions, 1e-9)[evidence.entry]
    # Clicks at an unknown place are taken as given.
    doubt = np.where(shown > 0, 1 - posterior, 0.0)
    by_chance = float(doubt @ clicks) / max(float(doubt @ shown), 1e-9)
    grade = clicks - by_chance * shown
    judged = np.flatnonzero(judges[evidence.entry] & (grade != 0))
    return Triples(evidence.entry[judged], evidence.row[judged], grade[judged])
