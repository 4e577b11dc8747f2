"""Every ```python block of the README and the docs runs, page by page, in an empty folder."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import ruvector_gnn
from ruvector_gnn import _core

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_examples_of_the_core_run() -> None:
    """Doctest finds those of Python modules by itself, but none in an extension."""
    owners = [_core, _core.Tensor, _core.Graph, _core.HNSWIndex]
    texts = {f"{owner}.{name}": getattr(owner, name).__doc__ for owner in owners for name in dir(owner)}
    runner, parser = doctest.DocTestRunner(), doctest.DocTestParser()
    for name, text in texts.items():
        runner.run(parser.get_doctest(text or "", {"rg": ruvector_gnn}, name, None, 0))
    assert runner.tries > 10
    assert runner.failures == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": page.stem}
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block.group(1), str(page), "exec"), names)
