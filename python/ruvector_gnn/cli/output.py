"""Printing for people and for machines."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np


def emit(value: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own; JSON has no NaN, so what is not finite is null."""
    print(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))


def lines(value: Mapping[str, Any], indent: str = "") -> str:
    """A mapping as aligned lines, nested mappings indented below their name."""
    width = max((len(str(name)) for name in value), default=0)
    found = []
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            found.append(f"{indent}{name}")
            found.append(lines(entry, indent + "  "))
        else:
            found.append(f"{indent}{name:<{width}}  {_shown(entry)}")
    return "\n".join(line for line in found if line)


def shows_progress(as_json: bool) -> bool:
    """Progress bars are for people at a terminal."""
    return not as_json and sys.stderr.isatty()


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float | np.floating) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
