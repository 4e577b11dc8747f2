"""From the query log to a model."""

import numpy as np

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.db import log
from ruvector_gnn.db.catalog import Catalog
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.learn import SearchLearner

# As many as the learner itself wants for judging trained models; with fewer, all clicks judge.
FEWEST_JUDGES = 40


def train(index: HNSWIndex, catalog: Catalog, *, seed: int, progress: bool) -> SearchLearner:
    """A learner fitted to the clicks of the log; `ConfigError` if there are none on living documents.

    Clicks agree with the order that was shown, so a model judged on them looks no better than that order and
    training stops at once. Where enough answers were shuffled, all clicks teach and those alone judge.
    """
    row_of = dict(catalog.execute("SELECT id, row FROM documents"))
    queries, relevant, explored = log.training_pairs(log.read(catalog), row_of)
    if not queries:
        raise ConfigError(f"{catalog.path.parent}: the log holds no click on a document that still exists")
    judges = np.array(explored) if sum(explored) >= FEWEST_JUDGES else None
    clicked = [np.array(rows, dtype=np.int64) for rows in relevant]
    learner = SearchLearner(index, seed=seed)
    learner.fit(np.stack(queries), clicked, progress=progress, judges=judges)
    return learner
