"""Quality against the number of past queries, as a PNG."""

from importlib.util import find_spec
from pathlib import Path

from ruvector_gnn.demo.experiment import Outcome
from ruvector_gnn.demo.report import groups
from ruvector_gnn.errors import ConfigError

MISSING = "no plot: it needs matplotlib (pip install 'ruvector_gnn[plot]')"


def available() -> bool:
    """Whether matplotlib can be imported.

    >>> isinstance(available(), bool)
    True
    """
    return find_spec("matplotlib") is not None


def draw(outcome: Outcome, path: Path) -> None:
    """Write the learning curve to `path`.

    One line each for all future queries, those whose documents the past clicked, and those it never did.
    Raises `ConfigError` without matplotlib and `OSError` if `path` can't be written.
    """
    if not available():
        raise ConfigError(MISSING)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = {
        "all": "all future queries",
        "warm": "documents clicked before",
        "cold": "documents never clicked",
    }
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever backend the user has set
    axes = figure.add_subplot()
    sizes = sorted(outcome.curve)
    for group, mask in groups(outcome).items():
        if mask.any():
            heights = [outcome.curve[size]["ndcg@10"][mask].mean() for size in sizes]
            axes.plot(sizes, heights, marker="o", label=labels[group])
    axes.set_xlabel("past queries learned from")
    axes.set_ylabel("nDCG@10 on future queries")
    axes.set_title("Search in Python's standard library")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=120)
