"""The names of the files that a database writes. Files of any other name in its directory are the user's."""

import re

CATALOG, VECTORS, LOCK = "catalog.sqlite", "vectors.f32", "writer.lock"
WAL, SHM, JOURNAL = f"{CATALOG}-wal", f"{CATALOG}-shm", f"{CATALOG}-journal"

LARGEST_FILE_NUMBER = 10**15
_NUMBER = "(?:[0-9]{6}|[1-9][0-9]{6,15})"
_SNAPSHOTS = rf"index-{_NUMBER}\.hnsw|model-{_NUMBER}\.gnn"
PATTERNS = {
    "vectors_file": re.compile(rf"vectors(?:-{_NUMBER})?\.f32"),
    "index_file": re.compile(rf"index-{_NUMBER}\.hnsw"),
    "model_file": re.compile(rf"model-{_NUMBER}\.gnn"),
}
# What the Rust core calls a file before it is renamed into place.
_TEMPORARY = re.compile(rf"\.(?:{_SNAPSHOTS})\.[0-9]+-[0-9]+\.tmp")


def numbered(setting: str, number: int) -> str:
    """The name of a new file for a setting, by its number."""
    stem, suffix = {
        "vectors_file": ("vectors", "f32"),
        "index_file": ("index", "hnsw"),
        "model_file": ("model", "gnn"),
    }[setting]
    return f"{stem}-{number:06d}.{suffix}"


def is_data(name: str) -> bool:
    """Whether a database writes vectors, an index or a model under this name."""
    return any(pattern.fullmatch(name) for pattern in PATTERNS.values())


def is_temporary(name: str) -> bool:
    """Whether this is the name of a snapshot that is being written."""
    return _TEMPORARY.fullmatch(name) is not None
