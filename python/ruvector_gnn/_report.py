"""What held-back queries said of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["LearningReport"]


@dataclass(frozen=True)
class LearningReport:
    """What held-back queries said of a fit: nDCG@10 on past queries that were not learned from.

    `print(report)` says it in sentences; `as_dict()` gives the fields, `report["gain"]` one by its name.

    Attributes
    ----------
    promoted : bool
        Whether a learned ranking serves. If not, searches rank as before.
    chosen : str
        The ranking that serves, in words.
    refused : str
        Why nothing was promoted; empty otherwise.
    queries : int
        Different past queries in the log.
    held_back : int
        Groups of like queries that candidates were judged on.
    candidates : int
        Rankings that were judged.
    tried : dict
        The best of each family of candidates: its "ndcg@10", its "gain" over the plain order, and the
        "standard_error" of that. The best of many is partly luck, so these are too high.
    steps : int
        Steps that the promoted models were trained for.
    before, after : float
        The plain order, and that plus `gain`.
    gain, standard_error : float
        What to expect for new questions: the mean paired difference to the plain order, where each question
        is judged by a candidate that others chose. 0 if nothing was promoted.
    interval : tuple of float
        The 95% interval of `gain`.
    before_never_clicked, after_never_clicked : float
        The same for documents that only one held-back query clicked; NaN without any.
    familiar_gain : float or None
        The gain of past queries that others restate, with the memory of those; None without any.
    familiar_interval : tuple of float or None
        Its 95% interval.
    familiar_queries : int
        How many there are.
    agreement : float
        By how many deviations the plain order agrees better with the clicks than with permuted ones; at most
        4 makes the guard strict.
    clicks : str or None
        How grades were made of a `ClickLog`; see `rg.clicks.judgements`. Files do not keep it.
    """

    promoted: bool
    chosen: str
    refused: str
    queries: int
    held_back: int
    candidates: int
    tried: dict[str, dict[str, float]]
    steps: int
    before: float
    after: float
    gain: float
    standard_error: float
    interval: tuple[float, float]
    before_never_clicked: float
    after_never_clicked: float
    familiar_gain: float | None
    familiar_interval: tuple[float, float] | None
    familiar_queries: int
    agreement: float
    clicks: str | None = None

    @classmethod
    def _of(cls, found: Mapping[str, Any], clicks: str | None) -> LearningReport:
        """From what the core says."""
        known = dict(found)
        if not known["familiar_queries"]:
            known["familiar_gain"] = known["familiar_interval"] = None
        return cls(**known, clicks=clicks)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name, as `report["gain"]`; `KeyError` if there is none."""
        return self.as_dict()[name]

    def __str__(self) -> str:
        """The report in sentences."""
        asked = f"{self.held_back:,} groups of like questions out of {self.queries:,} past ones"
        if self.promoted:
            low, high = self.interval
            lines = [
                f"A learned ranking serves: {self.chosen}.",
                f"New questions gain {self.gain:+.4f} in nDCG@10 ({low:+.4f} to {high:+.4f} with 95%"
                f" confidence), from {self.before:.4f} to {self.after:.4f}.",
                f"This was measured on {asked}, which it did not learn from.",
            ]
            if self.familiar_gain is not None and self.familiar_interval is not None:
                low, high = self.familiar_interval
                lines.append(
                    f"Questions like past ones gain {self.familiar_gain:+.4f} ({low:+.4f} to {high:+.4f}),"
                    f" by {self.familiar_queries:,} such questions."
                )
        else:
            lines = [
                "Searches rank as before: nothing was promoted.",
                f"Of {self.candidates:,} rankings, judged on {asked}: {self.refused}.",
            ]
        if self.clicks is not None:
            lines.append(f"Clicks were graded by: {self.clicks}.")
        return "\n".join(lines)
