"""Click logs: what users were shown and what they clicked, and what that says of relevance.

`ClickLog` holds impressions, `judgements` turns one into grades to teach a learner and grades to judge it by,
`PositionBiasedModel` tells relevance from position by expectation maximisation, and `simulate` draws logs of
users whose behaviour is known.
"""

from ruvector_gnn.clicks._judgements import Judgements, judgements
from ruvector_gnn.clicks._log import ClickLog
from ruvector_gnn.clicks._merge import MergedQueries
from ruvector_gnn.clicks._model import PositionBiasedModel
from ruvector_gnn.clicks._simulate import simulate

__all__ = ["ClickLog", "Judgements", "MergedQueries", "PositionBiasedModel", "judgements", "simulate"]

for _public in (Judgements, MergedQueries, PositionBiasedModel, judgements, simulate):
    _public.__module__ = __name__
ClickLog.__module__ = "ruvector_gnn"
