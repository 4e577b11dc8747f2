"""The demo's collection: the documented functions of Python's own standard library.

A documented function or method is a document, seen only through its code: its name, its arguments and the
identifiers of its body. The sentences of its docstring are queries that it answers. Docstrings and other
string constants never enter a document, so a query can't find its own words by construction.

The sources are parsed, never imported or run.
"""

import ast
import doctest
import inspect
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ruvector_gnn.errors import ConfigError

# Other people's packages, tests, and the programs that come along with the library.
SKIPPED = {
    *("site-packages", "dist-packages", "__pycache__"),
    *("test", "tests"),
    *("idlelib", "lib2to3", "turtledemo"),
}
MIN_QUERY_WORDS = 3

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Document:
    """One function: `name` is its dotted path, `text` the identifiers that stand for it."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents, queries, and for each query the rows of the documents whose docstring holds that sentence.

    A sentence that several docstrings share is one query with several relevant documents: no text is asked
    twice.
    """

    documents: list[Document]
    queries: list[str]
    relevant: list[list[int]]


def standard_library(source: Path | None = None) -> Corpus:
    """Parse every module under `source` (default: the running interpreter's standard library).

    Raises `ConfigError` if there are no documented functions there, as in an installation without sources.

    >>> import json
    >>> corpus = standard_library(Path(json.__file__).parent)
    >>> corpus.documents[0].name, len(corpus.queries) == len(corpus.relevant)
    ('dump', True)
    """
    root = Path(sysconfig.get_path("stdlib")) if source is None else source
    documents: list[Document] = []
    asked: dict[str, list[int]] = {}
    for module, tree in _modules(root):
        for name, function, docstring in _documented(tree, module):
            row = len(documents)
            documents.append(Document(name, " ".join(_identifiers(name, function))))
            for sentence in sentences(docstring):
                rows = asked.setdefault(sentence, [])
                if row not in rows:
                    rows.append(row)
    if not asked:
        raise ConfigError(
            f"{root} holds no Python sources with documented functions; "
            "name a directory of sources (--source DIR, for instance a package you use)"
        )
    return Corpus(documents, list(asked), list(asked.values()))


def sentences(docstring: str) -> list[str]:
    """The sentences of a docstring, without its doctests and anything shorter than three words.

    >>> sentences("Return the sum of all. Ignores None,\\nthen adds.\\n\\n>>> total([1])\\n1\\n")
    ['Return the sum of all.', 'Ignores None, then adds.']
    """
    found = []
    for paragraph in re.split(r"\n\s*\n", _without_doctests(docstring)):
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            if len(re.findall(r"[A-Za-z]{2,}", sentence)) >= MIN_QUERY_WORDS:
                found.append(sentence)
    return found


def _without_doctests(docstring: str) -> str:
    try:
        parts = doctest.DocTestParser().parse(docstring)
    except ValueError:  # a malformed example: the text itself is still worth having
        return docstring
    return "\n\n".join(part for part in parts if isinstance(part, str))


def _modules(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Dotted module name and syntax tree, in the order of the paths, of all files that parse."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED.intersection(parts):
            continue
        try:
            with tokenize.open(path) as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's strings
                tree = ast.parse(file.read())
        except (SyntaxError, ValueError, OSError):  # templates, other Pythons' sources, unreadable files
            continue
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), tree


def _documented(tree: ast.AST, scope: str) -> Iterator[tuple[str, _Function, str]]:
    """Every function with a docstring, however deep, as (dotted name, node, docstring)."""
    for node in ast.iter_child_nodes(tree):
        inner = scope
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{scope}.{node.name}" if scope else node.name
            if not isinstance(node, ast.ClassDef):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield inner, node, inspect.cleandoc(docstring)
        yield from _documented(node, inner)


def _identifiers(name: str, function: _Function) -> Iterator[str]:
    """The dotted name, then arguments and identifiers of the body; no string constants."""
    yield name
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
