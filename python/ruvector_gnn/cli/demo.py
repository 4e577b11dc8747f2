"""The `demo` command."""

import argparse
import sys
import time
from pathlib import Path

from ruvector_gnn.cli.output import emit
from ruvector_gnn.demo import plot
from ruvector_gnn.demo.corpus import standard_library
from ruvector_gnn.demo.experiment import Outcome, run
from ruvector_gnn.demo.report import as_json, as_text

DEFAULT_PLOT = "ruvector-gnn-demo.png"


def demo(options: argparse.Namespace) -> None:
    """Parse, embed, learn, judge; print the report and write the plot."""
    begin = time.perf_counter()
    draws = not options.no_plot and plot.available()
    path = Path(options.plot or DEFAULT_PLOT)
    if draws and not path.parent.is_dir():
        raise FileNotFoundError(f"--plot: there is no directory {path.parent}")
    _say("reading the sources of Python's standard library ..." if options.source is None else "reading ...")
    corpus = standard_library(None if options.source is None else Path(options.source))
    outcome = run(corpus, seed=options.seed, curve=draws, say=_say, begin=begin)
    if options.json:
        emit({**as_json(outcome), "plot": str(path) if draws else None})
    else:
        print(as_text(outcome))
        print(f"\n{outcome.seconds:.1f} s")
    if not options.no_plot:
        _plot(outcome, path, draws)


def _plot(outcome: Outcome, path: Path, draws: bool) -> None:
    if draws:
        plot.draw(outcome, path)
        _say(f"plot: {path}")
    else:
        _say(plot.MISSING)


def _say(text: str) -> None:
    """Progress goes to standard error: standard output carries the report alone."""
    print(text, file=sys.stderr, flush=True)
