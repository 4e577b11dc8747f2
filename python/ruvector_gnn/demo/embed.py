"""An embedding that needs no model: hashed TF-IDF of words and their parts, reduced by a truncated SVD.

The hash is CRC-32 and the SVD is seeded, so the same texts give the same vectors.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ruvector_gnn.errors import ConfigError

if TYPE_CHECKING:
    from scipy import sparse

BUCKETS = 32_768

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def words(text: str) -> list[str]:
    """Lower-case words of a text; identifiers fall into their parts.

    >>> words("HTTPServer.getRequest_line2")
    ['http', 'server', 'get', 'request', 'line', '2']
    """
    return [word.lower() for word in _WORD.findall(text)]


def pieces(word: str) -> list[str]:
    """A word and all runs of four letters in it, ends marked, so that "reads" and "reading" share some.

    >>> pieces("reads")
    ['reads', '#rea', 'read', 'eads', 'ads#']
    """
    marked = f"#{word}#"
    return [word, *(marked[start : start + 4] for start in range(max(1, len(marked) - 3)))]


@dataclass(frozen=True)
class Embedder:
    """Texts -> unit vectors, fitted on a list of documents.

    >>> embedder = Embedder.fit(["open file read", "close socket", "read line of file"], dim=2)
    >>> embedder(["read a file"]).shape
    (1, 2)
    """

    idf: npt.NDArray[np.float32]
    axes: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, documents: list[str], dim: int = 256, seed: int = 0) -> Embedder:
        """Learn word weights and the `dim` leading directions of the documents.

        Raises `ConfigError` if `dim` is not below the number of documents.
        """
        if not 1 <= dim < min(len(documents), BUCKETS):
            raise ConfigError(f"dim: got {dim}, expected 1 or more and below {len(documents)} documents")
        counts = _counts(documents)
        holding = np.bincount(counts.indices, minlength=BUCKETS)
        idf = (np.log((1 + len(documents)) / (1 + holding)) + 1).astype(np.float32)
        return cls(idf, _leading_axes(_weighted(counts, idf), dim, seed))

    def __call__(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """One unit row per text; all texts without a known word get the same one."""
        reduced = np.asarray(_weighted(_counts(texts), self.idf) @ self.axes, dtype=np.float32)
        norms = np.linalg.norm(reduced, axis=1, keepdims=True)
        # A zero vector has no cosine. The last axis is the one that says least about any document.
        reduced[norms[:, 0] < 1e-6, -1] = 1.0
        return np.asarray(reduced / np.linalg.norm(reduced, axis=1, keepdims=True), dtype=np.float32)


def _counts(texts: list[str]) -> sparse.csr_matrix:
    """(texts, BUCKETS) of `1 + ln(count)`: the tenth use of a word says less than its first."""
    from scipy import sparse

    buckets: dict[str, list[int]] = {}
    indptr, indices, values = [0], list[int](), list[int]()
    for text in texts:
        counted: Counter[int] = Counter()
        for word, count in Counter(words(text)).items():
            if word not in buckets:
                buckets[word] = [zlib.crc32(piece.encode()) % BUCKETS for piece in pieces(word)]
            for bucket in buckets[word]:
                counted[bucket] += count
        indices.extend(counted.keys())
        values.extend(counted.values())
        indptr.append(len(indices))
    data = 1 + np.log(np.asarray(values, dtype=np.float32))
    return sparse.csr_matrix((data, indices, indptr), shape=(len(texts), BUCKETS), dtype=np.float32)


def _weighted(counts: sparse.csr_matrix, idf: npt.NDArray[np.float32]) -> sparse.csr_matrix:
    """TF-IDF with rows of unit length."""
    from scipy import sparse

    matrix = counts @ sparse.diags_array(idf)
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags_array(1 / np.maximum(norms, 1e-12)) @ matrix, dtype=np.float32)


def _leading_axes(matrix: sparse.csr_matrix, dim: int, seed: int) -> npt.NDArray[np.float32]:
    """The right singular vectors (BUCKETS, dim), by a randomized range finder.

    Halko, Martinsson and Tropp (2011), algorithms 4.4 and 5.1; several times faster here than Lanczos. Only
    the buckets that some document fills take part.
    """
    filled = np.unique(matrix.indices)
    dense = matrix[:, filled]
    width = min(dim + 16, *dense.shape)
    start = np.random.default_rng(seed).standard_normal((len(filled), width), dtype=np.float32)
    basis = np.linalg.qr(dense @ start)[0]
    for _ in range(3):
        basis = np.linalg.qr(dense @ (dense.T @ basis))[0]
    small = dense.T @ basis
    _, rotation = np.linalg.eigh(small.T @ small)  # rising eigenvalues: the leading ones stand last
    directions = np.linalg.qr(small @ rotation[:, ::-1][:, :dim])[0]
    axes = np.zeros((matrix.shape[1], dim), dtype=np.float32)
    axes[filled, : directions.shape[1]] = directions
    return axes
