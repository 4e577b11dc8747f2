"""Vector search that learns: graph neural networks on top of an HNSW index.

>>> import numpy as np
>>> import ruvector_gnn as rg
>>> rg.num_threads() >= 1
True
"""

from ruvector_gnn import losses, metrics, nn, optim, search
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
from ruvector_gnn.autograd import no_grad, tensor
from ruvector_gnn.db import SearchResult, VectorDB
from ruvector_gnn.errors import ConfigError, FormatError, NotFoundError, RowError, RuvectorError, ShapeError
from ruvector_gnn.hits import Hits, RangeHits
from ruvector_gnn.learn import Ranking, SearchLearner
from ruvector_gnn.partition import Partition

__all__ = [
    "Block",
    "ConfigError",
    "FormatError",
    "Graph",
    "HNSWIndex",
    "Hits",
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
    "VectorDB",
    "__version__",
    "aggregate",
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
    "search",
    "segment_max",
    "segment_mean",
    "segment_sum",
    "set_num_threads",
    "stack",
    "tensor",
    "where",
]
