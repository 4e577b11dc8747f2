"""Every ```python block of the README and the docs runs, page by page, in an empty folder."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import ruvector_gnn
from ruvector_gnn import _core

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
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
    run_blocks(page, tmp_path, monkeypatch)


def test_the_readme_shows_what_learning_gains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader sees a clear gain on held-out queries, and the figures that the page promises."""
    run_blocks(ROOT / "README.md", tmp_path, monkeypatch)
    figure = re.compile(r"nDCG@10 (before|after): +(\d\.\d\d)")
    printed = {when: float(value) for when, value in figure.findall(capsys.readouterr().out)}
    promised = {when: float(value) for when, value in figure.findall((ROOT / "README.md").read_text())}
    assert printed["after"] > printed["before"] + 0.5
    assert printed == pytest.approx(promised, abs=0.03)  # other kernels round differently


def run_blocks(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": page.stem}
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block.group(1), str(page), "exec"), names)
