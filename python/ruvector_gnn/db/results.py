"""What a database answers with."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ruvector_gnn.db.catalog import Id
from ruvector_gnn.db.vectors import Vectors

Metadata = dict[str, Any]


class Hit(NamedTuple):
    """One entry of a `SearchResult`."""

    id: Id
    score: float
    metadata: Metadata


@dataclass(frozen=True)
class SearchResult:
    """The answer to one query, best first (unless `explored`): `ids`, `scores` (higher is better),
    `metadata`.

    It is a sequence of `Hit`s. `explored` says that the order was shuffled to learn without position bias;
    pass the result itself as `shown` to `VectorDB.record`, and the log knows.

    >>> result = SearchResult(["a"], np.array([0.5], dtype=np.float32), [{"lang": "en"}])
    >>> result[0].id, len(result), [hit.score for hit in result]
    ('a', 1, [0.5])
    """

    ids: list[Id]
    scores: npt.NDArray[np.float32]
    metadata: list[Metadata]
    explored: bool = field(default=False)

    def __len__(self) -> int:
        """The number of hits, at most k."""
        return len(self.ids)

    def __getitem__(self, place: int) -> Hit:
        """The hit at a place of the shown order."""
        return Hit(self.ids[place], float(self.scores[place]), self.metadata[place])

    def __iter__(self) -> Iterator[Hit]:
        """Hits in the shown order."""
        return (self[place] for place in range(len(self)))


class Record(NamedTuple):
    """What is stored under one id."""

    id: Id
    vector: Vectors
    metadata: Metadata


@dataclass(frozen=True)
class Records:
    """What is stored under several ids, in the order asked: `ids`, `vectors` (n, dim), `metadata`; iterates
    `Record`s."""

    ids: list[Id]
    vectors: Vectors
    metadata: list[Metadata]

    def __len__(self) -> int:
        """How many."""
        return len(self.ids)

    def __getitem__(self, place: int) -> Record:
        """The record at a place."""
        return Record(self.ids[place], self.vectors[place], self.metadata[place])

    def __iter__(self) -> Iterator[Record]:
        """Records in order."""
        return (self[place] for place in range(len(self)))
