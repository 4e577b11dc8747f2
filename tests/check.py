"""The one-command loop: every check that a change must pass, on any machine with Rust and Python.

    pip install '.[test]' && python tests/check.py

Runs rustfmt, clippy (default features, no default features, with the Python feature), the Rust tests (default
and no default features), the model check of the locks, rustdoc, the wheel build, ruff, mypy --strict,
stubtest, pytest, doctests and the code blocks of README and docs. The Python checks run on the wheel of this
checkout, which the step `wheel` installs into this environment. `--only NAME` runs one step; `--list` names
them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIPPY = ["cargo", "clippy", "--quiet", "--all-targets"]
DENY = ["--", "-D", "warnings"]
LOCKING = ["cargo", "test", "--quiet", "--manifest-path", "tests/locking/Cargo.toml"]


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run one command from the repository root; a failure ends the check."""
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True, env={**os.environ, **(env or {})})


def module(name: str, *arguments: str) -> None:
    """Run `python -m name` with this interpreter."""
    run(sys.executable, "-m", name, *arguments)


def wheel() -> None:
    """Build the wheel of this checkout and install it here; its dependencies came with '.[test]'."""
    with tempfile.TemporaryDirectory(prefix="ruvector-wheel-") as folder:
        module("maturin", "build", "--release", "--quiet", "--out", folder)
        built = str(next(Path(folder).glob("*.whl")))
        module("pip", "install", "--quiet", "--no-deps", "--force-reinstall", built)


def steps() -> dict[str, Callable[[], None]]:
    """The checks, in order."""
    docs = {"RUSTDOCFLAGS": "-D warnings"}
    return {
        "rustfmt": lambda: run("cargo", "fmt", "--check"),
        "clippy": lambda: run(*CLIPPY, *DENY),
        "clippy portable": lambda: run(*CLIPPY, "--no-default-features", *DENY),
        "clippy python": lambda: run(*CLIPPY, "--features", "python", *DENY),
        "cargo test": lambda: run("cargo", "test", "--quiet"),
        "cargo test portable": lambda: run("cargo", "test", "--quiet", "--no-default-features"),
        "locking": lambda: run(*LOCKING),
        "rustdoc": lambda: run("cargo", "doc", "--quiet", "--no-deps", env=docs),
        "wheel": wheel,
        "ruff": lambda: module("ruff", "check", "python", "tests", "benches", "examples", "fuzz"),
        "mypy": lambda: module("mypy"),
        "stubtest": lambda: module("mypy.stubtest", "ruvector_gnn._core"),
        "pytest": lambda: module("pytest", "-m", "not long", "--ignore", "tests/python/test_docs.py"),
        "doctests": lambda: module("pytest", "--doctest-modules", "--pyargs", "ruvector_gnn"),
        "README": lambda: module("pytest", "tests/python/test_docs.py"),
    }


def main() -> int:
    """Run the steps; print what each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="run this step (may be repeated)")
    parser.add_argument("--list", action="store_true", help="name the steps and stop")
    options = parser.parse_args()
    if shutil.which("cargo") is None:
        print("check.py needs Rust's cargo on PATH", file=sys.stderr)
        return 2
    checks = steps()
    if options.list:
        print("\n".join(checks))
        return 0
    unknown = set(options.only or ()) - set(checks)
    if unknown:
        parser.error(f"no step is named {', '.join(sorted(unknown))}; --list names them")
    for name in options.only or checks:
        begin = time.perf_counter()
        print(f"== {name}", flush=True)
        try:
            checks[name]()
        except subprocess.CalledProcessError as failure:
            print(f"FAILED {name}: exit status {failure.returncode}", file=sys.stderr)
            return 1
        print(f"   {time.perf_counter() - begin:.1f} s", flush=True)
    print("all checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
