"""Learn from the past queries, judge on the future ones."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ruvector_gnn._core import HNSWIndex
from ruvector_gnn.demo.corpus import Corpus
from ruvector_gnn.demo.embed import Embedder
from ruvector_gnn.demo.measure import DEPTH, PerQuery, Rows, per_query
from ruvector_gnn.learn import SearchLearner

PAST_SHARE = 0.6
CURVE = (0.3, 1 / 16)  # shares of the past that the plot shows besides none and all
CURVE_COST = 0.6  # a training on one of them takes about half of the whole one's time
PATIENCE = 50.0  # seconds in which the demo means to be done, with a margin to a minute

Vectors = npt.NDArray[np.float32]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """Numbers of the past and the future queries, and which future queries are cold.

    A future query is cold when no past query clicked any of its relevant documents.
    """

    past: Rows
    future: Rows
    cold: npt.NDArray[np.bool_]

    @classmethod
    def draw(cls, relevant: Sequence[Sequence[int]], seed: int) -> "Split":
        """Give a random `PAST_SHARE` of the queries to the past."""
        order = np.random.default_rng(seed).permutation(len(relevant))
        bound = round(PAST_SHARE * len(relevant))
        past, future = order[:bound], order[bound:]
        clicked = {row for query in past for row in relevant[query]}
        return cls(past, future, np.array([clicked.isdisjoint(relevant[query]) for query in future]))


@dataclass
class Outcome:
    """What the experiment found: rankings of the future queries before and after, and the learning curve."""

    corpus: Corpus
    split: Split
    ranking: dict[str, Rows]
    quality: dict[str, PerQuery]
    curve: dict[int, PerQuery] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def relevant(self) -> list[list[int]]:
        """The relevant rows of each future query."""
        return [self.corpus.relevant[query] for query in self.split.future]


class Experiment:
    """The collection embedded, indexed and split; `learned(share)` trains on a share of the past."""

    def __init__(self, corpus: Corpus, seed: int, say: Say) -> None:
        """Embed and index the documents, embed and split the queries."""
        say(f"{len(corpus.documents):,} functions, {len(corpus.queries):,} sentences; embedding them ...")
        texts = [document.text for document in corpus.documents]
        embedder = Embedder.fit(texts, dim=min(256, len(texts) - 1), seed=seed)
        vectors = embedder(texts)
        self.queries = embedder(corpus.queries)
        self.index = HNSWIndex(vectors.shape[1], metric="cosine", seed=seed)
        self.index.add(vectors)
        self.corpus, self.seed = corpus, seed
        self.split = Split.draw(corpus.relevant, seed)

    @property
    def asked(self) -> Vectors:
        """The vectors of the future queries."""
        return self.queries[self.split.future]

    def plain(self) -> Rows:
        """The index's own ranking of the future queries."""
        return np.asarray(self.index.search(self.asked, k=DEPTH).rows, dtype=np.int64)

    def learned(self, share: float) -> tuple[int, Rows]:
        """Train on the first `share` of the past: its size, and the ranking of the future queries."""
        past = self.split.past[: round(share * len(self.split.past))]
        learner = SearchLearner(self.index, seed=self.seed)
        learner.fit(self.queries[past], [np.array(self.corpus.relevant[query]) for query in past])
        return len(past), np.asarray(learner.search(self.asked, k=DEPTH).rows, dtype=np.int64)

    def measure(self, ranking: Rows) -> PerQuery:
        """Quality of a ranking of the future queries."""
        return per_query(ranking, [self.corpus.relevant[query] for query in self.split.future])


def run(
    corpus: Corpus,
    *,
    seed: int = 0,
    curve: bool = True,
    say: Say = lambda text: None,
    begin: float | None = None,
) -> Outcome:
    """The whole demo but the printing: embed, split, rank, learn, rank again.

    `curve=False` leaves out the trainings on parts of the past, which only the plot needs; those that would
    not end within `PATIENCE` of `begin` (as `time.perf_counter` counts) are left out too.
    """
    begin = time.perf_counter() if begin is None else begin
    experiment = Experiment(corpus, seed, say)
    before = experiment.plain()
    say(f"learning from {len(experiment.split.past):,} past queries ...")
    trained = time.perf_counter()
    count, after = experiment.learned(1.0)
    whole = time.perf_counter() - trained
    ranking = {"before": before, "after": after}
    quality = {name: experiment.measure(rows) for name, rows in ranking.items()}
    outcome = Outcome(corpus, experiment.split, ranking, quality)
    if curve:
        outcome.curve.update({0: quality["before"], count: quality["after"]})
        for share in CURVE:
            if time.perf_counter() - begin + CURVE_COST * whole > PATIENCE:
                say("this machine is slow or busy: fewer points in the plot")
                break
            say(f"learning from {share:.0%} of them, for the plot ...")
            size, rows = experiment.learned(share)
            outcome.curve[size] = experiment.measure(rows)
    outcome.seconds = time.perf_counter() - begin
    return outcome
