"""What SQLite raises, as the package's errors."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruvector_gnn.errors import ConfigError, FormatError


@contextmanager
def catalog_errors(path: Path) -> Iterator[None]:
    """`OSError` for what the system refuses, `FormatError` for damage, `ConfigError` after `close`."""
    try:
        yield
    except sqlite3.ProgrammingError as closed:
        raise ConfigError(f"{path.parent}: {closed}") from None
    except sqlite3.OperationalError as refused:
        text = str(refused)
        if "no such" in text or "malformed" in text:
            raise FormatError(f"{path}: {text}") from None
        raise OSError(f"{path}: {text}") from refused
    except sqlite3.DatabaseError as damaged:
        raise FormatError(f"{path}: {damaged}") from None
