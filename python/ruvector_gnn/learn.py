"""Search that learns from past queries and what they were clicked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ruvector_gnn import _core
from ruvector_gnn._progress import watch
from ruvector_gnn._relevance import Relevant, as_triples
from ruvector_gnn._report import LearningReport
from ruvector_gnn.clicks import ClickLog, judgements
from ruvector_gnn.errors import ConfigError

if TYPE_CHECKING:
    from ruvector_gnn._core import HNSWIndex

__all__ = ["Ranking", "SearchLearner"]

_Clicks = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]


class Ranking(NamedTuple):
    """What a learned search found, best first.

    `rows` is `(queries, k)` int64 with -1 in missing places; `scores` is `(queries, k)` float32, higher is
    better, `-inf` in missing places.
    """

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


class SearchLearner:
    r"""Ranks the rows of one index by what past queries teach.

    A document `d` is scored for a query `q` by

    .. math:: F(q, d) = a\,q_1 \cdot h_d + (1-a)\,q_2 \cdot x_d + w\,m(q, d) + b\,[n_d = 0]

    with adapted queries :math:`q_i = \mathrm{norm}(q + q A_i)`, click edges
    :math:`h_d = \mathrm{norm}(x_d + g\,c_d W)`, :math:`c_d = S_d / (n_d + |c|)` over the :math:`n_d`
    queries that clicked `d` (their sum is :math:`S_d`), and the votes :math:`m` of the `k` nearest past
    queries, :math:`\sum_p e^{(\cos(q, p) - 1) / \tau}`. Vectors are taken as the metric
    sees them: under `ip` nothing is normalised, under `l2` scores rank as the squared distance does.

    The parts enter only where held-back queries say that they help. Queries that are alike stand on one side
    of every split; a candidate is promoted if its paired gain in nDCG@10 exceeds two standard errors and what
    the best of all candidates reaches with permuted clicks. Otherwise the learner ranks exactly as the index
    does, as it does before the first `fit`.

    Args:
        index: the `HNSWIndex` to rank. It stays the caller's: rows may be added and removed.
        encoder: what joins documents and past queries; only ``"clicks"``.
        seed: what every random choice comes from.

    Example:
        >>> import numpy as np
        >>> import ruvector_gnn as rg
        >>> index = rg.HNSWIndex(2)
        >>> rows = index.add([[1.0, 0.0], [0.0, 1.0]])
        >>> learner = rg.SearchLearner(index)
        >>> learner.search([[0.9, 0.1]], k=1).rows
        array([[0]])
    """

    def __init__(self, index: HNSWIndex, encoder: str = "clicks", seed: int = 0) -> None:
        """An untrained learner; see the class."""
        if encoder != "clicks":
            raise ConfigError(f"encoder must be 'clicks', got {encoder!r}")
        self._index = index
        self._core = _core.Learner(index, seed)
        self._paths: list[str | None] = [None]

    @property
    def index(self) -> HNSWIndex:
        """The index that is ranked."""
        return self._index

    def fit(
        self,
        queries: npt.ArrayLike | ClickLog,
        relevant: Relevant | None = None,
        progress: bool = False,
        callback: Callable[..., object] | None = None,
        judged: Relevant | None = None,
    ) -> SearchLearner:
        """Learn from past queries, from nothing; the model before is kept for `rollback`.

        Parameters
        ----------
        queries : array_like of float, shape (n, dim), or ClickLog
            Past queries. From a `ClickLog` the learner makes the grades itself, as `rg.clicks.judgements`
            says; `relevant` and `judged` are left out then, and `report` says under "clicks" how the grades
            were made.
        relevant : sequence, mapping, sparse matrix or Triples
            What each query was clicked for: a list of `n` row arrays, of which some may be empty; a mapping
            from query number to rows, or to a mapping from row to grade; a SciPy sparse matrix, queries by
            rows, whose values are grades; or `rg.Triples(query, row, grade)`. Grades are from 0 up, and 0
            means not relevant. Rows that were removed are left out.
        progress : bool
            Show a progress bar.
        callback : callable, optional
            Called as ``callback(step, metrics)``, with a last step of 1,000; what it raises stops the work,
            and nothing changes.
        judged : sequence, mapping, sparse matrix or Triples, optional
            Grades to judge by, in any form of `relevant`, for instance from answers that were shown in random
            order. All of `relevant` teaches, but only queries with a positive grade here decide when training
            stops and what is promoted. A negative grade takes off what clicks give by chance. By default
            `relevant` judges too.

        Returns
        -------
        SearchLearner
            The learner itself. `report` tells what was promoted, and why.

        Raises
        ------
        ShapeError
            For queries of another dimension, not finite, or zero under cosine; for `relevant` of another
            form, or with a grade that is negative or not finite.
        RowError
            For the number of a query or a row that there never was.
        ConfigError
            If no query has a row that the index holds, or a log no click; if `relevant` or `judged` is given
            beside a `ClickLog`, or `relevant` is missing without one.

        Examples
        --------
        >>> import numpy as np
        >>> import ruvector_gnn as rg
        >>> index = rg.HNSWIndex(8)
        >>> vectors = np.random.default_rng(0).normal(size=(50, 8))
        >>> _ = index.add(vectors)
        >>> shown = index.search(vectors[:20], k=5).rows
        >>> log = rg.ClickLog(vectors[:20], shown, shown[:, 2:3])
        >>> report = rg.SearchLearner(index).fit(log).report
        >>> report.clicks
        'position-based model'
        """
        path = None
        if isinstance(queries, ClickLog):
            if relevant is not None or judged is not None:
                raise ConfigError("relevant and judged must be left out where queries is a ClickLog")
            found = judgements(queries)
            if not len(found.teach):
                raise ConfigError("queries: the log has no click that could teach")
            queries, relevant, judged, path = found.queries, found.teach, found.judge, found.path
        elif relevant is None:
            raise ConfigError("relevant is missing; only a ClickLog says itself what was clicked")
        asked, clicks = _judged(queries, relevant)
        fair = None if judged is None else _judged(asked, judged, "judged", signed=True)[1]
        self._core.fit(asked, clicks, watch(progress, callback, "fit"), fair)
        self._paths = [self._paths[-1], path]
        return self

    def search(
        self, queries: npt.ArrayLike, k: int = 10, filter: Any = None, learned: bool = True
    ) -> Ranking:
        """The best `k` rows of each query.

        Args:
            queries: `(n, dim)`, or one query `(dim,)`.
            k: rows per query.
            filter: the rows that may be returned: a boolean mask of length `index.num_rows`, or row numbers.
            learned: False gives the plain order.

        Returns:
            `Ranking(rows, scores)`. Scores of the plain order are the cosine, the inner product or, under
            `l2`, the negative distance.
        """
        return Ranking(*self._core.search(queries, k, filter, learned))

    def evaluate(self, queries: npt.ArrayLike, relevant: Relevant, learned: bool = True) -> dict[str, float]:
        """Judge the ranking on queries that were not learned from.

        Parameters
        ----------
        queries, relevant
            As in `fit`, but all rows must be in the index.
        learned : bool
            False judges the plain order.

        Returns
        -------
        dict
            Means of "ndcg@10", "mrr@10" (reciprocal rank), "recall@10" and "recall@100" over the queries with
            something relevant, and their number, "queries".

        Raises
        ------
        RowError
            For a row that the index does not hold, naming it and its query; otherwise as `fit`.
        """
        return self._core.evaluate(*_judged(queries, relevant), learned)

    @property
    def report(self) -> LearningReport | None:
        """What held-back queries said of the last fit; None before it. The promoted model is trained again on
        the whole log.
        """
        found = self._core.report()
        return None if found is None else LearningReport._of(found, self._paths[-1])

    def explain(self, query: npt.ArrayLike, row: int) -> dict[str, Any]:
        """Explain why `row` stands where it stands for one query.

        Parameters
        ----------
        query : array_like of float, shape (dim,)
            A query.
        row : int
            A row of the index.

        Returns
        -------
        dict
            "score" is what the row is ranked by: the sum of the parts times their "weights", and of "bonus",
            which never-clicked rows get. The parts are its scores under the "plain" metric, the query
            "adapter", the adapter with click "edges" and the untrained click edges ("centroid"), that of the
            mean of its "neighbors" in the index, and the "votes" of similar past queries; `None` for parts
            that the ranking does without. "voters" lists `(past query, cosine, vote)`, where past queries
            count the different ones with a click in the order in which they first came; "clicks" is how often
            the row was clicked, weighed by grade.

        Raises
        ------
        ConfigError
            If nothing was learned yet.
        RowError
            For a row that the index does not hold.
        ShapeError
            For a query of another dimension.

        Examples
        --------
        >>> import numpy as np
        >>> import ruvector_gnn as rg
        >>> rng = np.random.default_rng(0)
        >>> index = rg.HNSWIndex(8)
        >>> rows = index.add(rng.normal(size=(100, 8)))
        >>> learner = rg.SearchLearner(index).fit(rng.normal(size=(20, 8)), [[row] for row in range(20)])
        >>> parts = learner.explain(np.ones(8), 3)
        >>> parts["score"] == parts["plain"], parts["weights"]["plain"], parts["clicks"]
        (True, 1.0, 1.0)
        """
        return self._core.explain(query, row)

    def rollback(self) -> None:
        """Put back what served before the last `fit`; `ConfigError` if there is nothing."""
        self._core.rollback()
        self._paths = self._paths[:1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the learner to one file, atomically; the index is saved on its own.

        The file holds a digest of each row that the learner knows, as the index holds it by now. It keeps
        the mode, the owner and the group of the file it replaces; a symbolic link stays, and the file it
        leads to is replaced.

        Raises `OSError` where the system refuses, and if `path` is a directory, a pipe, a socket or a device.
        """
        self._core.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], index: HNSWIndex) -> SearchLearner:
        """Read what `save` wrote, beside the index that it was trained on.

        Rows may have been added, removed and updated since. An index that has not handed out the rows that
        the learner knows, or holds other vectors at more than half of those left, raises `ConfigError`.

        >>> import os, tempfile
        >>> import numpy as np
        >>> import ruvector_gnn as rg
        >>> rows = np.random.default_rng(0).normal(size=(50, 4))
        >>> index = rg.HNSWIndex(4)
        >>> _ = index.add(rows)
        >>> learner = rg.SearchLearner(index).fit(rows[:20], [[row] for row in range(20)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "learner")
        ...     learner.save(path)
        ...     index.remove([3, 4])
        ...     rg.SearchLearner.load(path, index).search(rows[5], k=1).rows
        array([[5]])
        """
        return cls._of(_core.Learner.load(path, index), index)

    @classmethod
    def _of(cls, core: _core.Learner, index: HNSWIndex) -> SearchLearner:
        learner = cls.__new__(cls)
        learner._index, learner._core, learner._paths = index, core, [None]
        return learner

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles with its index."""
        return _restore, (self._core.to_bytes(), self._index)

    def __repr__(self) -> str:
        """The index and what serves."""
        report = self.report
        state = "untrained" if report is None else report.chosen
        return f"SearchLearner({self._index!r}, {state})"


def _restore(data: bytes, index: HNSWIndex) -> SearchLearner:
    return SearchLearner._of(_core.Learner.from_bytes(data, index), index)


def _judged(
    queries: npt.ArrayLike, relevant: Relevant, name: str = "relevant", *, signed: bool = False
) -> tuple[npt.NDArray[Any], _Clicks]:
    """Queries as an array, and what is relevant to them, as the core takes both."""
    asked = _core.as_array("queries", queries)
    found = as_triples(relevant, len(asked) if asked.ndim == 2 else 1, name, signed=signed)
    return asked, (found.query, found.row, found.grade)
