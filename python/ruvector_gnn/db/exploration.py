"""Shuffled answers: which answers to shuffle, and remembering them until their clicks come back."""

import itertools
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from numpy.random import default_rng

from ruvector_gnn.db import arguments
from ruvector_gnn.db.catalog import Id
from ruvector_gnn.db.log import Impression
from ruvector_gnn.db.results import SearchResult
from ruvector_gnn.db.vectors import Vectors

REMEMBERED = 1024


class Exploration:
    """Shuffles a share of the answers, each by its own seeded draw."""

    def __init__(self, seed: int) -> None:
        """Draws depend on `seed`, on the length of the log and on how many answers were drawn for before."""
        self._seed = [arguments.seed(seed)]
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

    def recalled(self, impression: Impression) -> Impression:
        """The same, looked up whether its order had been shuffled if that isn't known."""
        if impression.explored is not None:
            return impression
        order = impression.shown
        known = order is not None and _key(impression.query, order) in self._shuffled
        return replace(impression, explored=known)


def _key(query: Vectors, ids: Sequence[Id]) -> int:
    return hash((zlib.crc32(query.tobytes()), tuple(ids)))
