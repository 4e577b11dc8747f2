"""The one-command loop: every check that a change must pass, on any machine with Rust and Python.

    pip install '.[test]' && python tests/check.py

Runs rustfmt, clippy (default features, no default features, with the Python feature), the Rust tests (default and
no default features), rustdoc, the wheel build, ruff, mypy --strict, stubtest, pytest and the README's code blocks.
The Python checks run against the wheel that was just built, in a virtual environment of their own that sees the
test tools of this interpreter. `--only NAME` runs one step; `--list` names them.
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


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run one command from the repository root; a failure ends the check."""
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True, env={**os.environ, **(env or {})})


class Wheel:
    """The wheel of this checkout, installed in a virtual environment beside this interpreter's test tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"

    def build(self) -> None:
        """Build the wheel and install it alone: its dependencies are already there, from '.[test]'."""
        run(sys.executable, "-m", "maturin", "build", "--release", "--quiet", "--out", self.folder)
        run(sys.executable, "-m", "venv", "--system-site-packages", self.folder / "venv")
        site = subprocess.run(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
        # Packages of an enclosing virtual environment are not "system" ones: name its folder.
        own = subprocess.run(
            [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
        Path(site, "test_tools.pth").write_text(own + "\n")
        wheel = next(self.folder.glob("*.whl"))
        run(self.python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall",
            "--disable-pip-version-check", wheel)

    def module(self, name: str, *arguments: str | Path, env: dict[str, str] | None = None) -> None:
        """Run `python -m name` where the wheel is installed."""
        run(self.python, "-m", name, *arguments, env=env)


def steps(wheel: Wheel) -> dict[str, Callable[[], None]]:
    """The checks, in order."""
    docs = {"RUSTDOCFLAGS": "-D warnings"}
    return {
        "rustfmt": lambda: run("cargo", "fmt", "--check"),
        "clippy": lambda: run(*CLIPPY, *DENY),
        "clippy portable": lambda: run(*CLIPPY, "--no-default-features", *DENY),
        "clippy python": lambda: run(*CLIPPY, "--features", "python", *DENY),
        "cargo test": lambda: run("cargo", "test", "--quiet"),
        "cargo test portable": lambda: run("cargo", "test", "--quiet", "--no-default-features"),
        "rustdoc": lambda: run("cargo", "doc", "--quiet", "--no-deps", env=docs),
        "wheel": wheel.build,
        "ruff": lambda: run(sys.executable, "-m", "ruff", "check", "python", "tests", "benches", "examples"),
        "mypy": lambda: wheel.module("mypy"),
        "stubtest": lambda: wheel.module("mypy.stubtest", "ruvector_gnn._core"),
        "pytest": lambda: wheel.module("pytest", "-m", "not long", "--ignore", "tests/python/test_docs.py"),
        "doctests": lambda: wheel.module("pytest", "--doctest-modules", "--pyargs", "ruvector_gnn"),
        "README": lambda: wheel.module("pytest", "tests/python/test_docs.py"),
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
    with tempfile.TemporaryDirectory(prefix="ruvector-check-") as folder:
        checks = steps(Wheel(Path(folder)))
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
