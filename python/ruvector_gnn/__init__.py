"""Vector search that learns: graph neural networks on top of an HNSW index.

>>> import numpy as np
>>> import ruvector_gnn as rg
>>> rg.num_threads() >= 1
True
"""

from ruvector_gnn._core import HNSWIndex, __version__, num_threads, set_num_threads
from ruvector_gnn.errors import ConfigError, FormatError, NotFoundError, RowError, RuvectorError, ShapeError
from ruvector_gnn.hits import Hits
from ruvector_gnn.learn import Ranking, SearchLearner

__all__ = [
    "ConfigError",
    "FormatError",
    "HNSWIndex",
    "Hits",
    "NotFoundError",
    "Ranking",
    "RowError",
    "RuvectorError",
    "SearchLearner",
    "ShapeError",
    "__version__",
    "num_threads",
    "set_num_threads",
]
