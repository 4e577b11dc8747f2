"""What SQLite raises, as the package's errors."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ruvector_gnn.errors import ConfigError, FormatError


class ReplacedError(FormatError):
    """A file was removed or replaced below an open handle, which has nothing to save in what is there."""


_DAMAGE = ("no such", "malformed", "Could not decode", "unsupported file format")
_TOO_LARGE = ("too many SQL variables", "Expression tree is too large", "parser stack overflow")


@contextmanager
def catalog_errors(path_of: Callable[[], Path]) -> Iterator[None]:
    """`OSError` for what the system refuses, `FormatError` for damage, `ConfigError` after `close` and for
    filters beyond SQLite's bounds."""
    try:
        yield
    except sqlite3.ProgrammingError as closed:
        raise ConfigError(f"{path_of().parent}: {closed}") from None
    except sqlite3.OperationalError as refused:
        text = str(refused)
        if any(words in text for words in _DAMAGE):
            raise FormatError(f"{path_of()}: {text}") from None
        if any(words in text for words in _TOO_LARGE):
            raise ConfigError(f"where: too large a filter for SQLite ({text})") from None
        raise OSError(f"{path_of()}: {text}") from refused
    except (sqlite3.DatabaseError, UnicodeDecodeError) as damaged:
        raise FormatError(f"{path_of()}: {damaged}") from None
