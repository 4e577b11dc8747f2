"""`no_grad` and `evaluation`: nested, reused, shared by threads, around generators and coroutines."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import ruvector_gnn as rg
from ruvector_gnn.nn import evaluation

X = rg.tensor([1.0, 2.0], requires_grad=True)


def recording() -> bool:
    return (X * X).requires_grad


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    assert recording()
    yield
    assert recording(), "the tape of this thread stays off"


def together(*tasks: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(tasks)) as threads:
        for task in [threads.submit(task) for task in tasks]:
            task.result()


def test_a_decorated_function_may_call_itself_and_fail() -> None:
    seen: list[bool] = []

    @rg.no_grad()
    def countdown(n: int) -> int:
        """Count down."""
        seen.append(recording())
        if n == 0:
            raise KeyError("done")
        return countdown(n - 1)

    for _ in range(2):
        with pytest.raises(KeyError):
            countdown(3)
        assert recording()
    assert seen == [False] * 8
    assert (countdown.__name__, countdown.__doc__) == ("countdown", "Count down.")


def test_one_guard_may_be_entered_again() -> None:
    guard = rg.no_grad()
    for _ in range(2):
        with guard:
            with guard, rg.no_grad(), guard:
                assert not recording()
            assert not recording()
        assert recording()


def test_guards_may_be_left_in_any_order() -> None:
    first, second = rg.no_grad(), rg.no_grad()
    with ExitStack() as a, ExitStack() as b:
        a.enter_context(first)
        b.enter_context(second)
        a.close()
        assert not recording()
        b.close()
        assert recording()


def test_leaving_what_was_not_entered_is_refused() -> None:
    guard = rg.no_grad()
    with pytest.raises(rg.ConfigError, match="has not entered"):
        guard.__exit__(None, None, None)
    with guard, ThreadPoolExecutor(1) as thread:
        with pytest.raises(rg.ConfigError, match="has not entered"):
            thread.submit(guard.__exit__, None, None, None).result()
        assert thread.submit(recording).result()
        assert not recording()


def test_threads_that_share_a_guard_do_not_disturb_each_other() -> None:
    guard, meet = rg.no_grad(), threading.Barrier(2, timeout=20)

    @guard
    def step() -> None:
        meet.wait()
        assert not recording()
        meet.wait()

    def inside() -> None:
        with guard:
            for _ in range(50):
                step()
                assert not recording()
        assert recording()

    def outside() -> None:
        for _ in range(50):
            step()
            assert recording()

    together(inside, outside)


def test_a_generator_records_nothing_and_its_caller_goes_on() -> None:
    @rg.no_grad()
    def values(count: int) -> Iterator[bool]:
        try:
            for _ in range(count):
                got = yield recording()
                assert got is None or got == "sent"
        except KeyError:
            yield recording()
        finally:
            assert not recording()
        return "end"

    assert list(values(3)) == [False] * 3
    steps = values(9)
    for _ in steps:
        assert recording()
        break
    assert steps.send("sent") is False and recording()
    assert steps.throw(KeyError("k")) is False and recording()
    steps.close()
    assert recording()
    unfinished = values(2)
    next(unfinished)
    del unfinished
    gc.collect()
    last = values(0)
    with pytest.raises(StopIteration) as stop:
        next(last)
    assert stop.value.value == "end"


def test_coroutines_interleave() -> None:
    @rg.no_grad()
    async def evaluate() -> str:
        for _ in range(3):
            assert not recording()
            await asyncio.sleep(0)
        return "done"

    async def train() -> None:
        for _ in range(5):
            assert recording()
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        done = await asyncio.gather(evaluate(), train(), evaluate(), train())
        assert done[::2] == ["done", "done"]
        cancelled = asyncio.create_task(evaluate())
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert recording()

    asyncio.run(all_of_them())


def test_an_asynchronous_generator_is_refused() -> None:
    with pytest.raises(rg.ConfigError, match="asynchronous generator"):

        @rg.no_grad()
        async def values() -> AsyncIterator[int]:
            yield 1


def test_methods_may_be_decorated() -> None:
    class Model(rg.nn.Module):
        @rg.no_grad()
        def recording(self) -> bool:
            return recording()

    assert not Model().recording()


def test_evaluation_on_two_threads_ends_on_neither_too_early() -> None:
    model = rg.nn.Dropout(0.5)
    x, meet = np.ones(1_000, np.float32), threading.Barrier(2, timeout=20)

    def first() -> None:
        with evaluation(model):
            meet.wait()
            meet.wait()
        meet.wait()

    def second() -> None:
        meet.wait()
        with evaluation(model):
            meet.wait()
            meet.wait()
            assert not model.training
            np.testing.assert_array_equal(model(x).numpy(), x)

    together(first, second)
    assert model.training


def test_evaluation_leaves_a_thread_that_trains_alone() -> None:
    model = rg.nn.Sequential(rg.nn.Linear(4, 64, seed=0), rg.nn.Dropout(0.5))
    x, meet = np.ones((50, 4), np.float32), threading.Barrier(2, timeout=20)

    def evaluate() -> None:
        with evaluation(model):
            meet.wait()
            assert (model(x).numpy() != 0).all()
            meet.wait()

    def train() -> None:
        meet.wait()
        out = model(x)
        meet.wait()
        assert (out.numpy() == 0).any() and out.requires_grad

    together(evaluate, train)


def test_evaluation_nests_and_gives_every_part_its_mode_back() -> None:
    inner = rg.nn.Dropout(0.5)
    model = rg.nn.Sequential(rg.nn.Dropout(0.1), inner, inner)
    inner.eval()
    with evaluation(model):
        with evaluation(inner):
            assert not model.training
        assert not inner.training
        inner.train()  # as for samples of a dropout network
        with evaluation(model):
            assert not inner.training
        assert inner.training
        copy = pickle.loads(pickle.dumps(model))
    assert model.training and not inner.training
    assert copy.training
    with pytest.raises(KeyError), evaluation(model):
        raise KeyError
    assert model.training
    model.eval()
    with evaluation(model):
        pass
    assert not model.training


def test_blocks_of_evaluation_may_end_in_any_order() -> None:
    model = rg.nn.Dropout(0.5)
    with ExitStack() as a, ExitStack() as b:
        a.enter_context(evaluation(model))
        b.enter_context(evaluation(model))
        a.close()
        b.close()
        assert model.training
