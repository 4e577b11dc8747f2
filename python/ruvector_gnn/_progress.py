"""Progress of long work: a bar for people, a callback for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Callback = Callable[[int, Mapping[str, float]], object]


def watch(
    progress: bool, callback: Callback | None, name: str
) -> Callable[[int, int, Mapping[str, float]], None] | None:
    """Return what the core reports its steps to: a bar if `progress`, then `callback(step, metrics)`.

    `metrics` always holds `"total"`, the number of steps that there will be. None if nobody watches.
    """
    if not progress and callback is None:
        return None
    bar = _bar(name) if progress else None

    def step(done: int, total: int, metrics: Mapping[str, float]) -> None:
        if bar is not None:
            bar.total = total
            bar.update(done - bar.n)
            if done >= total:
                bar.close()
        if callback is not None:
            callback(done, {"total": total, **metrics})

    return step


def _bar(name: str) -> Any:
    # Few processes show a bar, and importing tqdm takes a while.
    from tqdm import tqdm

    return tqdm(desc=name)
