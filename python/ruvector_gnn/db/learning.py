"""From the query log to a model."""

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.db import log
from ruvector_gnn.db.catalog import Catalog
from ruvector_gnn.errors import ConfigError
from ruvector_gnn.learn import SearchLearner


def train(index: HNSWIndex, catalog: Catalog, *, seed: int, progress: bool) -> SearchLearner:
    """A learner fitted to the clicks of the log; `ConfigError` if there are none on living documents."""
    clicks = log.click_log(catalog)
    if not any(len(rows) for rows in clicks.clicked):
        raise ConfigError(f"{catalog.path.parent}: the log holds no click on a document that still exists")
    return SearchLearner(index, seed=seed).fit(clicks, progress=progress)
