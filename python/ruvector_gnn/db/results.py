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

    `ids, scores, metadata = result` works too; `hits` are the same, entry by entry. `explored` says that the
    order was shuffled to learn without position bias; pass the result itself as `shown` to `VectorDB.record`,
    and the log knows.

    >>> result = SearchResult(["a"], np.array([0.5], dtype=np.float32), [{"lang": "en"}])
    >>> ids, scores, metadata = result
    >>> ids, len(result), [hit.score for hit in result.hits]
    (['a'], 1, [0.5])
    """

    ids: list[Id]
    scores: npt.NDArray[np.float32]
    metadata: list[Metadata]
    explored: bool = field(default=False)

    def __len__(self) -> int:
        """The number of hits, at most k."""
        return len(self.ids)

    def __iter__(self) -> Iterator[Any]:
        """`ids`, `scores`, `metadata`."""
        return iter((self.ids, self.scores, self.metadata))

    @property
    def hits(self) -> list[Hit]:
        """The entries in the shown order."""
        return [Hit(*entry) for entry in zip(self.ids, self.scores.tolist(), self.metadata, strict=True)]


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
