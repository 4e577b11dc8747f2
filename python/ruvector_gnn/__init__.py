"""Vector search that learns: graph neural networks on top of an HNSW index.

>>> import numpy as np
>>> import ruvector_gnn as rg
>>> rg.num_threads() >= 1
True
"""

import importlib
from typing import TYPE_CHECKING, Any

from ruvector_gnn import clicks, losses, metrics, nn, optim, schedules, search
from ruvector_gnn._core import (
    Block,
    Graph,
    HNSWIndex,
    Tensor,
    __version__,
    aggregate,
    concat,
    edge_softmax,
    grad,
    manual_seed,
    num_threads,
    segment_max,
    segment_mean,
    segment_sum,
    set_num_threads,
    stack,
    where,
)
from ruvector_gnn._relevance import Triples
from ruvector_gnn._report import LearningReport
from ruvector_gnn.autograd import no_grad, tensor
from ruvector_gnn.clicks import ClickLog
from ruvector_gnn.errors import ConfigError, FormatError, NotFoundError, RowError, RuvectorError, ShapeError
from ruvector_gnn.hits import Hits, RangeHits
from ruvector_gnn.learn import Ranking, SearchLearner
from ruvector_gnn.partition import Partition

if TYPE_CHECKING:
    from ruvector_gnn.db import SearchResult, VectorDB

__all__ = [
    "Block",
    "ClickLog",
    "ConfigError",
    "FormatError",
    "Graph",
    "HNSWIndex",
    "Hits",
    "LearningReport",
    "NotFoundError",
    "Partition",
    "RangeHits",
    "Ranking",
    "RowError",
    "RuvectorError",
    "SearchLearner",
    "SearchResult",
    "ShapeError",
    "Tensor",
    "Triples",
    "VectorDB",
    "__version__",
    "aggregate",
    "clicks",
    "concat",
    "edge_softmax",
    "grad",
    "losses",
    "manual_seed",
    "metrics",
    "nn",
    "no_grad",
    "num_threads",
    "optim",
    "schedules",
    "search",
    "segment_max",
    "segment_mean",
    "segment_sum",
    "set_num_threads",
    "stack",
    "tensor",
    "where",
]

if not TYPE_CHECKING:  # a type checker would take any name for granted
    _FROM_DB = ("SearchResult", "VectorDB")

    def __getattr__(name: str) -> Any:
        """Import the database, and SQLite with it, when it is first used."""
        if name != "db" and name not in _FROM_DB:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        db = importlib.import_module("ruvector_gnn.db")
        globals().update({found: getattr(db, found) for found in _FROM_DB})
        return db if name == "db" else getattr(db, name)

    def __dir__() -> list[str]:
        """List what is not imported yet, too."""
        return sorted({*globals(), *__all__, "db"})
