"""What can be said on the command line; each command names the function that does it."""

import argparse
from typing import NoReturn

from ruvector_gnn import __version__
from ruvector_gnn.cli import commands
from ruvector_gnn.cli.demo import DEFAULT_PLOT, demo


class _Parser(argparse.ArgumentParser):
    """Bad arguments are one line, as every other bad input."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"ruvector-gnn: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = _Parser(prog="ruvector-gnn", description="Vector search that learns from its own query log.")
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    known = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _demo(known)
    _build(known)
    _search(known)
    _record(known)
    _learn(known)
    _eval(known)
    _info(known)
    return top


_Commands = argparse._SubParsersAction  # argparse has no public name for it


def _demo(known: "_Commands[_Parser]") -> None:
    command = known.add_parser(
        "demo",
        help="learn to search Python's standard library: quality before and after, and a plot",
        description="Documents are the documented functions of Python's standard library, queries the"
        " sentences of their docstrings. Learns from past queries and is judged on future ones. Downloads"
        " nothing.",
    )
    command.add_argument("--plot", metavar="PNG", help=f"where to write the plot (default: {DEFAULT_PLOT})")
    command.add_argument("--no-plot", action="store_true", help="no plot, and no trainings for it alone")
    command.add_argument("--source", metavar="DIR", help="other Python sources to search")
    command.add_argument("--seed", type=int, default=0, help="of the split and the learner (default: 0)")
    _json(command, "one object")
    command.set_defaults(run=demo)


def _build(known: "_Commands[_Parser]") -> None:
    command = known.add_parser(
        "build",
        help="make a database (a directory) or an index (a .hnsw file) from vectors",
        description="VECTORS: .npy, .npz, .fvecs, or JSON lines of vectors or of objects with vector, id and"
        " metadata.",
    )
    command.add_argument("target", metavar="TARGET", help="a directory, or a file whose name ends in .hnsw")
    command.add_argument("vectors", metavar="VECTORS")
    command.add_argument("--array", metavar="NAME", help="which array of an .npz file")
    command.add_argument("--ids", metavar="FILE", help=".npy or JSON lines (default: 0, 1, 2, ...)")
    command.add_argument("--metadata", metavar="FILE", help="JSON lines, one object per vector")
    command.add_argument(
        "--metric", choices=("cosine", "l2", "ip"), help="of a new one (default: cosine)"
    )
    command.add_argument(
        "--append", action="store_true", help="add to a database that exists; options must agree with it"
    )
    command.add_argument("--m", type=int, help="links per node of the index")
    command.add_argument("--ef-construction", type=int, help="width of the search while building")
    _ignore_fields(command)
    _json(command, "one object")
    command.set_defaults(run=commands.build)


def _search(known: "_Commands[_Parser]") -> None:
    command = known.add_parser(
        "search",
        help="answer queries",
        description="QUERIES: .npy, .npz, .fvecs, or JSON lines of vectors or of objects with query; - reads"
        " JSON lines from standard input.",
    )
    command.add_argument("target", metavar="TARGET", help="a database or an index file")
    command.add_argument("queries", metavar="QUERIES")
    command.add_argument("--array", metavar="NAME", help="which array of an .npz file")
    command.add_argument("-k", type=int, default=10, help="hits per query (default: 10)")
    command.add_argument("--where", metavar="JSON", help='metadata filter, such as \'{"lang": "en"}\'')
    command.add_argument("--explore", type=float, default=0.0, metavar="SHARE", help="share to shuffle")
    command.add_argument("--plain", action="store_true", help="the order before learning")
    command.add_argument("--seed", type=int, default=0, help="of the shuffling (default: 0)")
    _ignore_fields(command)
    _json(command, "one object per query, a line each")
    command.set_defaults(run=commands.search)


def _record(known: "_Commands[_Parser]") -> None:
    command = known.add_parser(
        "record",
        help="append to the query log",
        description='LOG: JSON lines {"query": [...], "clicked": [ids], "shown": [ids], "explored": bool,'
        ' "at": seconds since 1970}; the last three may be left out. All lines are recorded, or none.',
    )
    command.add_argument("target", metavar="DATABASE")
    command.add_argument("log", metavar="LOG", help="a file, or - for standard input")
    command.add_argument(
        "--on-unknown",
        choices=("error", "skip"),
        default="error",
        help="refuse the log if a clicked id is unknown, or skip and count such lines (default: error)",
    )
    _ignore_fields(command)
    _json(command, "one object")
    command.set_defaults(run=commands.record)


def _learn(known: "_Commands[_Parser]") -> None:
    command = known.add_parser("learn", help="train on the query log and keep the model with the data")
    command.add_argument("target", metavar="DATABASE")
    command.add_argument("--seed", type=int, default=0, help="of the training (default: 0)")
    _json(command, "one object, the learner's report")
    command.set_defaults(run=commands.learn)


def _eval(known: "_Commands[_Parser]") -> None:
    command = known.add_parser(
        "eval",
        help="quality before and after learning, on held-out queries",
        description='QUERIES: JSON lines {"query": [...], "relevant": [ids]}, or an .npz file with the arrays'
        " queries (n, dim) and qrels (query number, id and, if given, a grade; those above 0 are relevant;"
        " of integers or of strings).",
    )
    command.add_argument("target", metavar="DATABASE")
    command.add_argument("queries", metavar="QUERIES")
    _ignore_fields(command)
    _json(command, "one object")
    command.set_defaults(run=commands.evaluate)


def _info(known: "_Commands[_Parser]") -> None:
    command = known.add_parser("info", help="what a database or an index file holds")
    command.add_argument("target", metavar="TARGET")
    command.add_argument("--verify", action="store_true", help="read everything and compare checksums")
    _json(command, "one object")
    command.set_defaults(run=commands.info)


def _ignore_fields(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ignore-fields",
        type=lambda names: names.split(","),
        default=[],
        metavar="NAMES",
        help="fields of JSON lines to leave out, with commas between; other unknown ones are refused",
    )


def _json(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--json", action="store_true", help=f"for machines: {what}")
