"""`HNSWIndex` under random operations, beside a dictionary and brute force.

Short sequences, which shrink when they fail, always; 100,000 operations with `-m long`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from index_model import CHANGES, QUESTIONS, Modelled

METRICS = ("cosine", "l2", "ip")
STORAGES = (
    ("f32", True),
    *((storage, rescore) for storage in ("f16", "i8", "binary") for rescore in (True, False)),
)
SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.integers(0, 30)


class Machine(RuleBasedStateMachine):
    """The rules of `Modelled`; what a rule draws comes from a seed, so that sequences shrink."""

    modelled: Modelled | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()

    @initialize(dim=st.integers(1, 40), metric=st.sampled_from(METRICS), kind=st.sampled_from(STORAGES))
    def create(self, dim: int, metric: str, kind: tuple[str, bool]) -> None:
        options = {"metric": metric, "storage": kind[0], "rescore": kind[1]}
        self.modelled = Modelled(dim, Path(self.folder.name), **options)

    @rule(operation=st.sampled_from(CHANGES), seed=SEEDS, count=COUNTS)
    def change(self, operation: Any, seed: int, count: int) -> None:
        operation(self.modelled, np.random.default_rng(seed), count)

    @rule(seed=SEEDS)
    def clear(self, seed: int) -> None:
        assert self.modelled is not None
        self.modelled.remove(np.random.default_rng(seed), len(self.modelled.held))

    @rule(question=st.sampled_from(QUESTIONS), seed=SEEDS, count=COUNTS)
    def ask(self, question: Any, seed: int, count: int) -> None:
        question(self.modelled, np.random.default_rng(seed), count)

    @precondition(lambda self: self.modelled is not None)
    @invariant()
    def is_as_modelled(self) -> None:
        assert self.modelled is not None
        self.modelled.look(np.random.default_rng(0), 3)

    def teardown(self) -> None:
        self.folder.cleanup()
        assert self.modelled is None or self.modelled.recall() >= 0.8


TestShortSequences = Machine.TestCase
TestShortSequences.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, derandomize=True
)


def run(modelled: Modelled, operations: int, seed: int) -> None:
    """Random operations in seasons: growing to some hundred rows, churning, shrinking, mostly to nothing."""
    for number in range(operations):
        rng = np.random.default_rng((seed, number))
        season = number // 60 % 4
        chance = ((0.5, 0.1, 0.1), (0.2, 0.2, 0.2), (0.05, 0.1, 0.5), (0.2, 0.2, 0.3))[season]
        weights = [*chance, 0.02, 0.02, 0.02, 0.03, 0.01]
        questions = 1 - sum(weights)
        weights += [questions / len(QUESTIONS)] * len(QUESTIONS)
        operation = [*CHANGES, *QUESTIONS][rng.choice(len(weights), p=weights)]
        count = int(rng.integers(0, 25))
        if operation is Modelled.add and len(modelled.held) > 400:
            operation = Modelled.remove
        if number % 240 == 179 and rng.random() < 0.7:
            operation, count = Modelled.remove, len(modelled.held)
        try:
            operation(modelled, rng, count)
            assert modelled.index.stats()["unreachable"] == 0
        except Exception as failure:
            what = f"seed {seed}, operation {number} ({operation.__name__}, {count})"
            raise AssertionError(f"{what}: {type(failure).__name__}: {failure}") from failure


@pytest.mark.long
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", STORAGES)
def test_a_hundred_thousand_operations(metric: str, kind: tuple[str, bool], tmp_path: Path) -> None:
    """All cases together; each has several dimensions."""
    for seed, dim in enumerate((1, 3, 16, 40)):
        modelled = Modelled(dim, tmp_path, metric=metric, storage=kind[0], rescore=kind[1], seed=seed)
        run(modelled, 1_200, seed)
        assert modelled.recall() >= 0.95, f"dim {dim}: recall {modelled.recall()}"
