"""Brackets, masks and `where` against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ruvector_gnn as rg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_tensor import VALUES, close

PARTS = st.one_of(
    st.integers(-6, 6),
    st.none(),
    st.builds(slice, *[st.none() | st.integers(-7, 7)] * 2, st.sampled_from([-3, -2, -1, 1, 2, None])),
)


@settings(deadline=None, max_examples=300)
@given(
    array=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=5), elements=VALUES),
    parts=st.lists(PARTS, max_size=4),
    dots=st.none() | st.integers(0, 4),
)
def test_brackets_choose_as_numpy(array: np.ndarray, parts: list[Any], dots: int | None) -> None:
    if dots is not None:
        parts.insert(dots, Ellipsis)
    key = tuple(parts)
    try:
        expected = array[key]
    except IndexError:
        with pytest.raises(rg.RowError):
            rg.tensor(array)[key]
        return
    if expected.ndim > 3:
        with pytest.raises(rg.ShapeError, match="at most 3"):
            rg.tensor(array)[key]
        return
    close(rg.tensor(array)[key], expected, 0)
    x = rg.tensor(array, requires_grad=True)
    x[key].sum().backward()
    counts = np.zeros_like(array)
    counts[key] += 1
    close(x.grad, counts, 0)


@settings(deadline=None)
@given(st.data())
def test_rows_and_masks_choose_as_numpy(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    rows = data.draw(hnp.arrays(np.int64, st.integers(0, 7), elements=st.integers(-shape[0], shape[0] - 1)))
    mask = data.draw(hnp.arrays(bool, shape[: data.draw(st.integers(1, len(shape)))]))
    for key in (rows, mask, (rows, Ellipsis), (mask, ..., None) if array.ndim - mask.ndim < 2 else mask):
        close(rg.tensor(array)[key], array[key], 0)
    x = rg.tensor(array, requires_grad=True)
    x[rows].sum().backward()
    counts = np.zeros_like(array)
    np.add.at(counts, rows, 1)
    close(x.grad, counts, 0)


def test_what_cannot_be_an_index_is_refused() -> None:
    x = rg.tensor(np.ones((3, 2)))
    for key in (3, (0, 2), (0, 0, 0), [0, 5], [True, False], (..., ...)):
        with pytest.raises(rg.RowError):
            x[key]
    for key in (True, (slice(None), [0, 1]), slice(None, None, 0)):
        with pytest.raises(rg.ConfigError):
            x[key]
    with pytest.raises(rg.ShapeError):
        x[1.5]
    assert [row.shape for row in x] == [(2,)] * 3, "a loop ends after the last row"


@settings(deadline=None)
@given(st.data())
def test_where_broadcasts_as_numpy(data: st.DataObject) -> None:
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=4)).input_shapes
    mask = data.draw(hnp.arrays(bool, shapes[0]))
    a, b = (data.draw(hnp.arrays(np.float32, shape, elements=VALUES)) for shape in shapes[1:])
    close(rg.where(mask, rg.tensor(a), b), np.where(mask, a, b), 0)
    x, y = rg.tensor(a, requires_grad=True), rg.tensor(b, requires_grad=True)
    rg.where(mask, x, y).sum().backward()
    chosen = np.broadcast_to(mask, np.broadcast_shapes(*shapes)).sum()
    assert float(x.grad.sum()) == chosen
    assert float(y.grad.sum()) == np.prod(np.broadcast_shapes(*shapes)) - chosen
    if np.broadcast_shapes(mask.shape, a.shape) == a.shape:
        close(rg.tensor(a).masked_fill(mask, 7.0), np.where(mask, np.float32(7), a), 0)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(rg.ShapeError, match="where"):
        rg.where([True, False], np.ones(3), np.ones(3))
    with pytest.raises(rg.ShapeError, match="masked_fill"):
        rg.tensor(np.ones((2, 3))).masked_fill(np.ones((3, 2), bool), 0.0)
