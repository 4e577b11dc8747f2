"""Having contents and names reach the disk."""

import fcntl
import os
from pathlib import Path

# macOS's fsync leaves the data with the drive, which may lose it.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def flush(descriptor: int) -> None:
    """Return once what was written to an open file has reached the disk."""
    if _FULL_SYNC is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, _FULL_SYNC)


def flush_names(folder: Path) -> None:
    """Return once the names in a directory have reached the disk."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flush(directory)
    finally:
        os.close(directory)


def make_directory(path: Path) -> None:
    """Make `path` and what is missing above it; the new names have reached the disk when this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        flush_names(folder.parent)
