"""Tensors against NumPy, and the rules of the tape."""

from __future__ import annotations

import math
import os
import pickle
from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

VALUES = st.floats(-4, 4, width=32)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, max_side=5)


def close(got: Any, expected: Any, tolerance: float = 2e-6) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    limit = tolerance * max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=limit)


@settings(deadline=None)
@given(st.data())
def test_operators_broadcast_as_numpy(data: st.DataObject) -> None:
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=5)).input_shapes
    a, b = (data.draw(hnp.arrays(np.float32, shape, elements=VALUES)) for shape in shapes)
    x, y = rg.tensor(a), rg.tensor(b)
    close(x + y, a + b)
    close(x - y, a - b)
    close(x * y, a * b)
    close(x / (y * y + 1), a / (b * b + 1))
    close(a * y, a * b)
    close(2 - x, 2 - a)
    close(2**x, 2**a, 4e-6)


UNARY = {
    "exp": np.exp,
    "tanh": np.tanh,
    "abs": np.abs,
    "relu": lambda a: np.maximum(a, 0),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softplus": lambda a: np.logaddexp(a, 0),
    "elu": lambda a: np.where(a > 0, a, np.expm1(a)),
    "leaky_relu": lambda a: np.where(a > 0, a, 0.01 * a),
}


@pytest.mark.parametrize("name", UNARY)
@settings(deadline=None, max_examples=30)
@given(array=hnp.arrays(np.float32, SHAPES, elements=VALUES))
def test_functions_of_one_value(name: str, array: np.ndarray) -> None:
    close(getattr(rg.tensor(array), name)(), UNARY[name](array.astype(np.float64)))


@settings(deadline=None)
@given(array=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5), elements=VALUES))
def test_reductions_along_every_axis(array: np.ndarray) -> None:
    x, wide = rg.tensor(array), array.astype(np.float64)
    for name in ("sum", "mean", "max", "min"):
        close(getattr(x, name)(), getattr(wide, name)())
        for axis in range(-array.ndim, array.ndim):
            close(getattr(x, name)(axis), getattr(wide, name)(axis))
            close(getattr(x, name)(axis, keepdims=True), getattr(wide, name)(axis, keepdims=True))
    for axis in range(array.ndim):
        e = np.exp(wide - wide.max(axis, keepdims=True))
        close(x.softmax(axis), e / e.sum(axis, keepdims=True))
        close(x.log_softmax(axis), np.log(e / e.sum(axis, keepdims=True)))
        close(x.logsumexp(axis), np.log(np.exp(wide).sum(axis)))


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_products_and_transposes(m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(n, k)).astype(np.float32)
    close(rg.tensor(a) @ rg.tensor(b).T, a @ b.T)
    close(rg.tensor(a).T, a.T)
    close(rg.tensor(a).reshape(-1) if m * k else rg.tensor(a), a.reshape(-1) if m * k else a)


@settings(deadline=None)
@given(st.data())
def test_shapes_change_as_in_numpy(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    x = rg.tensor(array)
    lengths = data.draw(st.lists(st.integers(-1, 6), max_size=3))
    try:
        expected = array.reshape(lengths)
    except ValueError:
        with pytest.raises(rg.ShapeError, match="reshape"):
            x.reshape(*lengths) if lengths else x.reshape(())
    else:
        close(x.reshape(*lengths) if lengths else x.reshape(()), expected, 0)
    first, second = (data.draw(st.integers(-array.ndim, array.ndim - 1)) for _ in range(2))
    close(x.transpose(first, second), array.swapaxes(first, second), 0)
    close(rg.concat([x, array, x], first), np.concatenate([array] * 3, first), 0)
    if array.ndim < 3:
        close(rg.stack([x, array], first), np.stack([array] * 2, first), 0)
    length = array.shape[first]
    start = data.draw(st.integers(0, length))
    close(x.slice(start, length, first), array.take(range(start, length), first), 0)


def test_three_dimensional_products() -> None:
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4, 5)), rng.normal(size=(4, 2))
    close(rg.tensor(a) @ b, a @ b)
    close(rg.tensor(a) @ c, a @ c)
    close(rg.tensor(a).transpose(0, 2), a.transpose(2, 1, 0))


@settings(deadline=None, max_examples=30)
@given(array=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5), elements=VALUES))
def test_rows_normalize_and_compare(array: np.ndarray) -> None:
    wide = array.astype(np.float64)
    norms = np.linalg.norm(wide, axis=-1)
    close(rg.tensor(array).norm(), norms)
    close(rg.tensor(array).norm(keepdims=True), norms[..., None])
    close(rg.tensor(array).normalize(), wide / np.where(norms == 0, 1, norms)[..., None], 5e-6)
    other = wide[..., ::-1]
    cosine = (wide * other).sum(-1) / np.where(norms == 0, 1, norms * norms)
    close(rg.tensor(array).cosine_similarity(other), cosine, 5e-6)
    size = array.shape[-1]
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt(wide.var(-1, keepdims=True) + 1e-3) * 2 + 1
    close(rg.tensor(array).layer_norm(np.full(size, 2.0), np.ones(size), 1e-3), expected, 2e-5)


@pytest.mark.parametrize("name", ["sqrt", "log", "gelu", "clip", "neg", "pow"])
@settings(deadline=None, max_examples=20)
@given(array=hnp.arrays(np.float32, SHAPES, elements=st.floats(0.125, 4, width=32)))
def test_other_functions_of_one_value(name: str, array: np.ndarray) -> None:
    x, wide = rg.tensor(array), array.astype(np.float64)
    erf = np.vectorize(math.erf, otypes=[float])
    got, expected = {
        "sqrt": lambda: (x.sqrt(), np.sqrt(wide)),
        "log": lambda: (x.log(), np.log(wide)),
        "gelu": lambda: (x.gelu(), wide * (1 + erf(wide / math.sqrt(2))) / 2),
        "clip": lambda: (x.clip(0.5, 2), wide.clip(0.5, 2)),
        "neg": lambda: (-x, -wide),
        "pow": lambda: (x**1.5, wide**1.5),
    }[name]()
    close(got, expected, 5e-6)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", ">f4"])
def test_operands_of_any_type_and_layout(dtype: str) -> None:
    base = np.arange(24).reshape(4, 6).astype(dtype)
    x = rg.tensor(np.ones((6, 2)), requires_grad=True)
    for operand in (base[:, ::3].T, base.T[::3]):
        wide = operand.astype(np.float64)
        close(operand.T @ x[:2], wide.T @ np.ones((2, 2)))
        close(rg.tensor(operand).sum(0), wide.sum(0))
        close(rg.concat([operand, rg.tensor(operand)]), np.concatenate([wide, wide]))


def test_the_memory_of_the_tape_is_freed() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    x = rg.tensor(np.ones((1000, 1000)), requires_grad=True)
    sizes, losses = [], []
    for _ in range(30):
        y = x
        for _ in range(10):
            y = y.exp().log()
        loss = y.sum()
        loss.backward()
        losses.append(loss)  # the results are still held: only what the adjoints saved may go
        del y
        sizes.append(resident())
    # Each step saves 20 arrays of 4 MB; the pool of buffers keeps 256 MB at most.
    assert sizes[-1] - sizes[3] < 100e6


def test_joining_and_choosing() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    close(rg.concat([rg.tensor(a), b], axis=1), np.concatenate([a, b], 1))
    close(rg.stack([a, b], axis=-1), np.stack([a, b], -1))
    close(rg.where(a > 2, rg.tensor(a), 0.0), np.where(a > 2, a, 0))
    close(rg.tensor(a).index_select([1, 1, 0]), a[[1, 1, 0]])
    close(rg.tensor(a).slice(1, 3, axis=1), a[:, 1:3])
    close(rg.tensor(a).clip(1, 4), a.clip(1, 4))
    close(rg.tensor(a).normalize(), a / np.linalg.norm(a, axis=1, keepdims=True))


@pytest.mark.parametrize(
    "array",
    [
        [[1, 2], [3, 4]],
        np.array([[1.0, 2], [3, 4]]),
        np.array([[1, 2], [3, 4]], np.float16),
        np.array([[1, 3], [2, 4]], np.float32).T,
        np.array([[1, 0, 2], [3, 0, 4]], np.float32)[:, ::2],
        np.array([[1, 2], [3, 4]], ">f4"),
    ],
)
def test_any_array_like_converts(array: Any) -> None:
    close(rg.tensor(array), np.array([[1.0, 2], [3, 4]]))


def test_what_cannot_be_a_tensor_is_refused() -> None:
    with pytest.raises(rg.ShapeError, match="finite"):
        rg.tensor([1.0, np.nan])
    with pytest.raises(rg.ShapeError, match="at most 3"):
        rg.tensor(np.zeros((1, 1, 1, 1)))
    with pytest.raises(rg.ShapeError, match=r"add: shapes \(2,\) and \(3,\)"):
        rg.tensor([1.0, 2]) + np.ones(3)
    with pytest.raises(rg.ShapeError, match="matmul"):
        rg.tensor(np.ones((2, 3))) @ np.ones((2, 3))
    with pytest.raises(rg.RowError):
        rg.tensor([1.0]).index_select([1])
    with pytest.raises(rg.RowError):
        rg.tensor([1.0]).index_select([-1])
    with pytest.raises(TypeError):
        rg.tensor([1.0]) + None


def test_gradients_accumulate_and_clear() -> None:
    x = rg.tensor([1.0, 2.0], requires_grad=True)
    for factor in (2, 4):
        (x * x).sum().backward()
        close(x.grad, factor * x.numpy())
    x.zero_grad()
    assert x.grad is None
    loss = (x**3).sum()
    (grad,) = rg.grad(loss, [x])
    close(grad, 3 * x.numpy() ** 2)
    assert x.grad is None
    with pytest.raises(rg.ConfigError, match="retain_graph"):
        loss.backward()


def test_the_tape_can_be_off() -> None:
    x = rg.tensor([1.0], requires_grad=True)
    with rg.no_grad():
        assert not (x + 1).requires_grad
    assert (x + 1).requires_grad
    with pytest.raises(rg.ConfigError):
        x.detach().backward()

    @rg.no_grad()
    def constant() -> rg.Tensor:
        return x + 1

    assert not constant().requires_grad


def test_pickle_and_repr() -> None:
    x = rg.tensor([[1.0, 2.0]], requires_grad=True)
    again = pickle.loads(pickle.dumps(x))
    close(again, x)
    assert again.requires_grad
    assert repr(x) == "Tensor([[1., 2.]], requires_grad=True)"
    assert float(rg.tensor(3.0)) == 3.0
    assert len(x) == 1


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(3000, 70)), rng.normal(size=(70, 50))
    before = rg.num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            rg.set_num_threads(threads)
            x, y, z = (rg.tensor(v, requires_grad=True) for v in (a, b, rng.normal(size=50) * 0 + 1))
            loss = rg.losses.cross_entropy(((x @ y) * z).tanh(), np.arange(3000) % 50)
            loss.backward()
            results.append([loss.numpy(), *(v.grad.numpy() for v in (x, y, z))])
    finally:
        rg.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)
