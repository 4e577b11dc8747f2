"""An `Outcome` as text for people and as one object for machines."""

import textwrap

import numpy as np
import numpy.typing as npt

from ruvector_gnn.demo.experiment import Outcome
from ruvector_gnn.demo.measure import METRICS, Rows, interval

Mask = npt.NDArray[np.bool_]

SHOWN = 5  # lines of each ranking side by side


def groups(outcome: Outcome) -> dict[str, Mask]:
    """Which future queries belong to each line of the report."""
    cold = outcome.split.cold
    return {"all": np.ones_like(cold), "warm": ~cold, "cold": cold}


def as_json(outcome: Outcome) -> dict[str, object]:
    """Means over all future queries, the same under `cold` and `warm`, the learning curve, the seconds."""
    tables = {
        group: {
            when: {
                # JSON has no NaN: a mean over no queries is null.
                name: float(values[mask].mean()) if mask.any() else None
                for name, values in quality.items()
            }
            for when, quality in outcome.quality.items()
        }
        for group, mask in groups(outcome).items()
    }
    return {
        **tables["all"],
        "cold": tables["cold"],
        "warm": tables["warm"],
        "documents": len(outcome.corpus.documents),
        "past_queries": len(outcome.split.past),
        "future_queries": len(outcome.split.future),
        "cold_queries": int(outcome.split.cold.sum()),
        "curve": {str(size): float(table["ndcg@10"].mean()) for size, table in sorted(outcome.curve.items())},
        "seconds": round(outcome.seconds, 3),
    }


def as_text(outcome: Outcome) -> str:
    """Tables of quality with 95 % intervals, then three queries side by side."""
    titles = {
        "all": "all future queries",
        "warm": "documents that were clicked before",
        "cold": "documents that never were",
    }
    lines = [
        f"{len(outcome.corpus.documents):,} documents, {len(outcome.split.past):,} past queries to learn "
        f"from, {len(outcome.split.future):,} future queries to judge on",
    ]
    for group, mask in groups(outcome).items():
        lines += ["", f"{titles[group]} ({mask.sum():,} queries)"]
        lines += [f"  {'':<11}{'before':>15}{'after':>17}{'difference':>17}"]
        lines += [_row(outcome, name, mask) for name in METRICS]
    for title, query in chosen(outcome):
        lines += ["", *_side_by_side(outcome, title, query)]
    return "\n".join(lines)


def _row(outcome: Outcome, name: str, mask: Mask) -> str:
    cluster = _clusters(outcome)[mask]
    before, after = (outcome.quality[when][name][mask] for when in ("before", "after"))
    return (
        f"  {name:<11}{interval(before, cluster)!s:>15}{interval(after, cluster)!s:>17}"
        f"{interval(after - before, cluster).signed():>17}"
    )


def _clusters(outcome: Outcome) -> Rows:
    """Queries of one document belong together."""
    return np.array([rows[0] for rows in outcome.relevant], dtype=np.int64)


def chosen(outcome: Outcome) -> list[tuple[str, int]]:
    """Three future queries: a typical gain on either kind of document, and a typical loss.

    Typical is the median of those that gained (or lost) nDCG@10 and have an answer among the lines shown, so
    that nothing is picked by hand.
    """
    change = outcome.quality["after"]["ndcg@10"] - outcome.quality["before"]["ndcg@10"]
    cold = outcome.split.cold
    seen = {when: _answered(outcome, when) for when in ("before", "after")}
    kinds = {
        "a typical gain, document clicked before": (change > 0) & ~cold & seen["after"],
        "a typical gain, document never clicked": (change > 0) & cold & seen["after"],
        "a typical loss": (change < 0) & seen["before"],
    }
    found = []
    for title, mask in kinds.items():
        members = np.flatnonzero(mask)
        if len(members):
            found.append((title, int(members[np.argsort(change[members], kind="stable")[len(members) // 2]])))
    return found


def _answered(outcome: Outcome, when: str) -> Mask:
    tops = outcome.ranking[when][:, :SHOWN]
    found = [np.isin(top, rows).any() for top, rows in zip(tops, outcome.relevant, strict=True)]
    return np.array(found, dtype=np.bool_)


def _side_by_side(outcome: Outcome, title: str, query: int) -> list[str]:
    text = outcome.corpus.queries[outcome.split.future[query]]
    wanted = outcome.relevant[query]
    lines = [f"{title}:", f'"{textwrap.shorten(text, 100)}"', f"  {'before':<52}after"]
    for place in range(SHOWN):
        row = [_entry(outcome, outcome.ranking[when][query, place], wanted) for when in ("before", "after")]
        lines.append(f"  {row[0]:<52}{row[1]}".rstrip())
    return lines


def _entry(outcome: Outcome, row: int, wanted: list[int]) -> str:
    if row < 0:
        return ""
    name = outcome.corpus.documents[row].name
    # The end of a dotted name says most.
    short = name if len(name) <= 46 else "..." + name[-43:]
    return f"{'*' if row in wanted else ' '} {short}"
