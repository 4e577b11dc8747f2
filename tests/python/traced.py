"""A writer in a forked child that is stopped at every system call that changes files.

`killed` ends it at one of them, as `kill -9` would. `lose_power` runs it to its end and builds, at each of
them, what a disk may hold if the power goes there. Both work by ptrace, on Linux, on what is shipped, with no
hooks in it: the writes of SQLite, of Python and of the Rust core are all seen.
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# The work that the child does; it says something each time that a call has returned.
Work = Callable[[Callable[[], None]], None]

_TRACEME, _SYSCALL, _SETOPTIONS, _SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_MARK_SYSCALLS, _EXIT_KILL = 1, 0x100000
_ENTRY = 1
_FLUSHES = ("fsync", "fdatasync")
_NUMBERS = {
    "x86_64": {
        **{"write": 1, "writev": 20, "pwrite64": 18, "pwritev": 296, "ftruncate": 77, "fallocate": 285},
        **{"fsync": 74, "fdatasync": 75, "rename": 82, "renameat": 264, "renameat2": 316, "mkdir": 83},
        **{"mkdirat": 258, "unlink": 87, "unlinkat": 263, "open": 2, "openat": 257},
    },
    "aarch64": {
        **{"write": 64, "writev": 66, "pwrite64": 68, "pwritev": 70, "ftruncate": 46, "fallocate": 47},
        **{"fsync": 82, "fdatasync": 83, "renameat": 38, "renameat2": 276, "mkdirat": 34},
        **{"unlinkat": 35, "openat": 56},
    },
}
_NAMES = {number: name for name, number in _NUMBERS.get(platform.machine(), {}).items()}


class _Info(ctypes.Structure):
    """`struct ptrace_syscall_info`."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


def _ptrace(request: int, process: int, address: int = 0, data: object = 0) -> int:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.restype = ctypes.c_long
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    result: int = call(request, process, address, data)
    if result < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    return result


class Child:
    """A forked child that runs `work` under the tracer."""

    def __init__(self, work: Work) -> None:
        """Fork; the child waits before its first step."""
        self._acknowledged, speak = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            status = 1
            try:
                os.close(self._acknowledged)
                _ptrace(_TRACEME, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                work(lambda: os.write(speak, b"."))
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        os.close(speak)
        os.set_blocking(self._acknowledged, False)
        self.returned = 0
        self.status: int | None = None
        self._wait()
        _ptrace(_SETOPTIONS, self.process, 0, _MARK_SYSCALLS | _EXIT_KILL)

    def _wait(self) -> int:
        """Until the child stops; the signal that stopped it, or -1 once it has ended."""
        _, status = os.waitpid(self.process, 0)
        if os.WIFSTOPPED(status):
            return os.WSTOPSIG(status)
        self.status = os.waitstatus_to_exitcode(status)
        return -1

    def _stop(self) -> _Info | None:
        """Run on to where a system call begins or ends; None once the child has ended."""
        pending = 0
        while True:
            _ptrace(_SYSCALL, self.process, 0, pending)
            pending = self._wait()
            if pending == -1:
                return None
            if pending == signal.SIGTRAP | 0x80:
                info = _Info()
                _ptrace(_SYSCALL_INFO, self.process, ctypes.sizeof(info), ctypes.addressof(info))
                return info

    def calls(self) -> Iterator[tuple[str, int]]:
        """Name and first argument of each call that may change files, before it is made."""
        while (info := self._stop()) is not None:
            name = _NAMES.get(info.number) if info.op == _ENTRY else None
            if name is not None and (name not in ("open", "openat") or self._creates(name, info)):
                self._listen()
                yield name, int(info.arguments[0])
        self._listen()

    def finish_call(self) -> None:
        """Run on to where the call that has begun ends."""
        self._stop()

    @staticmethod
    def _creates(name: str, info: _Info) -> bool:
        return bool(info.arguments[1 if name == "open" else 2] & (os.O_CREAT | os.O_TRUNC))

    def _listen(self) -> None:
        while True:
            try:
                said = os.read(self._acknowledged, 4096)
            except BlockingIOError:
                return
            if not said:
                return
            self.returned += len(said)

    def end(self) -> None:
        """Kill the child if it lives."""
        if self.status is None:
            os.kill(self.process, signal.SIGKILL)
            while self._wait() != -1:
                pass
        os.close(self._acknowledged)


def available() -> bool:
    """Whether children can be traced here."""
    if not sys.platform.startswith("linux") or not _NAMES:
        return False
    try:
        child = Child(lambda say: None)
    except OSError:
        return False
    try:
        return list(child.calls()) is not None and child.status == 0
    finally:
        child.end()


def killed(work: Work, at: int) -> int | None:
    """Run `work` and kill it before its call number `at`; how many of its steps had returned.

    None if it makes fewer calls: then it has ended as it should.
    """
    child = Child(work)
    try:
        for number, _ in enumerate(child.calls()):
            if number == at:
                return child.returned
        assert child.status == 0, f"the writer failed: {child.status}"
        return None
    finally:
        child.end()


class Disk:
    """What a power loss leaves of the folders below `root`: contents and names as they were last flushed."""

    def __init__(self, root: Path, shelf: Path) -> None:
        """Take what is there as flushed; `shelf` keeps a link to each file, so that no number comes twice."""
        self.root, self.shelf = root, shelf
        shelf.mkdir()
        self.contents: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int | None]] = {}
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            self.names[folder] = self._listing(folder)
            for number in self.names[folder].values():
                if number is not None:
                    self.contents[number] = self._seen(number)

    def _listing(self, folder: Path) -> dict[str, int | None]:
        """Names with the numbers of their files, None for folders."""
        found: dict[str, int | None] = {}
        for entry in sorted(folder.iterdir()):
            found[entry.name] = None if entry.is_dir() else entry.stat().st_ino
            if not entry.is_dir() and not (kept := self.shelf / str(entry.stat().st_ino)).exists():
                os.link(entry, kept)
        return found

    def _seen(self, number: int) -> bytes:
        return (self.shelf / str(number)).read_bytes()

    def note(self) -> None:
        """Keep hold of files that are new."""
        for folder in (self.root, *(path for path in self.root.rglob("*") if path.is_dir())):
            self._listing(folder)

    def flushed(self, path: Path) -> None:
        """An fsync of `path` has returned."""
        if path.is_dir():
            self.names[path] = self._listing(path)
        elif path.exists():
            self.contents[path.stat().st_ino] = path.read_bytes()

    def leave(self, target: Path, chance: random.Random | None) -> None:
        """Write what is left into `target`.

        Without `chance` nothing has reached the disk that was not flushed; with it, any file and the names in
        any folder may have done so on their own.
        """
        self._leave(self.root, target, chance)

    def _leave(self, folder: Path, target: Path, chance: random.Random | None) -> None:
        target.mkdir()
        early = chance is not None and chance.random() < 0.5 and folder.is_dir()
        names = self._listing(folder) if early else self.names.get(folder, {})
        for name, number in names.items():
            if number is None:
                self._leave(folder / name, target / name, chance)
                continue
            content = self.contents.get(number, b"")
            if chance is not None and chance.random() < 0.5:
                content = self._seen(number)
            (target / name).write_bytes(content)


def lose_power(work: Work, root: Path, spare: Path, every: int = 1) -> Iterator[tuple[int, Path]]:
    """Run `work` on files below `root`; what a power loss may leave before each of its calls, and in the end.

    Yields, for some worlds at each of these moments, or at one in `every`, how many steps of `work` had
    returned, and a folder that holds what is left of `root`.
    """
    disk, child, chance = Disk(root, spare / "shelf"), Child(work), random.Random(0)

    def worlds() -> Iterator[tuple[int, Path]]:
        for early in (None, chance, chance):
            disk.leave(spare / "left", early)
            yield child.returned, spare / "left"
            shutil.rmtree(spare / "left")

    try:
        for number, (name, argument) in enumerate(child.calls()):
            disk.note()
            if number % every == 0:
                yield from worlds()
            if name in _FLUSHES:
                path = Path(os.readlink(f"/proc/{child.process}/fd/{argument}"))
                child.finish_call()
                if root in (path, *path.parents):
                    disk.flushed(path)
        assert child.status == 0, f"the writer failed: {child.status}"
        yield from worlds()
    finally:
        child.end()
