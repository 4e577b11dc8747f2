"""Shuffled answers: which answers to shuffle, and remembering them until their clicks come back."""

import itertools
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence

from numpy.random import default_rng

from ruvector_gnn.db import arguments
from ruvector_gnn.db.arguments import Ids
from ruvector_gnn.db.catalog import Id
from ruvector_gnn.db.log import Impression
from ruvector_gnn.db.results import SearchResult
from ruvector_gnn.db.vectors import Vectors
from ruvector_gnn.errors import ConfigError

REMEMBERED = 1024


class Exploration:
    """Shuffles a share of the answers, each by its own seeded draw."""

    def __init__(self, seed: int) -> None:
        """Draws depend on `seed`, on the length of the log and on how many answers were drawn for before."""
        self._seed = [seed]
        self._draws = itertools.count()
        self._shuffled: OrderedDict[int, None] = OrderedDict()

    def after_fork_in_child(self) -> None:
        """Draws by the number of the process too, so that the workers of a server differ."""
        self._seed.append(os.getpid())

    def offer(self, query: Vectors, result: SearchResult, rate: float, logged: int) -> SearchResult:
        """The answer itself, or with probability `rate` the same hits in random order, marked as explored."""
        # The length of the log is part of the stream, so that a restart does not repeat the draws.
        stream = default_rng([*self._seed, logged, next(self._draws)])
        if stream.random() >= rate or len(result) < 2:
            return result
        order = stream.permutation(len(result))
        ids = [result.ids[place] for place in order]
        self._shuffled[_key(query, ids)] = None
        while len(self._shuffled) > REMEMBERED:
            self._shuffled.popitem(last=False)
        return SearchResult(ids, result.scores[order], [result.metadata[place] for place in order], True)

    def impression(
        self,
        query: Vectors,
        clicked_ids: Ids,
        shown: SearchResult | Ids | None = None,
        explored: bool | None = None,
    ) -> Impression:
        """What `VectorDB.record` was given, checked; if `explored` is None it is looked up."""
        clicked = list(dict.fromkeys(arguments.id_list(clicked_ids)))
        listed = shown.ids if isinstance(shown, SearchResult) else shown
        order = None if listed is None else arguments.distinct(listed, "shown")
        if not clicked and not order:
            raise ConfigError("record: neither a clicked nor a shown document")
        if explored is None:
            known = order is not None and _key(query, order) in self._shuffled
            explored = shown.explored if isinstance(shown, SearchResult) else known
        return Impression(query, clicked, order, bool(explored))


def _key(query: Vectors, ids: Sequence[Id]) -> int:
    return hash((zlib.crc32(query.tobytes()), tuple(ids)))
