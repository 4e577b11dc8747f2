"""What a path was stays when a file is saved over it, and only regular files are read and replaced."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ruvector_gnn as rg

Save = Callable[[str], None]


def index() -> rg.HNSWIndex:
    built = rg.HNSWIndex(4)
    built.add(np.eye(4))
    return built


def mapped_index(folder: Path) -> rg.HNSWIndex:
    index().save(folder / "source")
    return rg.HNSWIndex.load(folder / "source", mmap=True)


SAVERS: dict[str, Callable[[Path], Save]] = {
    "index": lambda folder: index().save,
    "mapped index": lambda folder: mapped_index(folder).save,
    "learner": lambda folder: rg.SearchLearner(index()).save,
    "weights": lambda folder: rg.nn.Linear(2, 2, seed=0).save_weights,
}


@pytest.fixture(params=SAVERS)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    return SAVERS[request.param](tmp_path)


@pytest.fixture(autouse=True, params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_stay_and_new_files_follow_the_umask(save: Save, folder: Path, umask: int) -> None:
    path = folder / "file"
    save(str(path))
    assert mode(path) == 0o666 & ~umask
    for bits in (0o600, 0o640, 0o664, 0o444, 0o666, 0o755):
        path.chmod(bits)
        before = path.stat()
        save(str(path))
        after = path.stat()
        assert stat.S_IMODE(after.st_mode) == bits
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
        assert after.st_ino != before.st_ino
    assert os.listdir(folder) == ["file"]


def test_links_stay(save: Save, folder: Path) -> None:
    target = folder / "far" / "target"
    target.parent.mkdir()
    links = folder / "links"
    links.mkdir()
    (links / "link").symlink_to("../far/target")
    (links / "chain").symlink_to(links / "link")
    save(str(links / "link"))  # it leads to nothing yet
    target.chmod(0o600)
    first = target.stat().st_ino
    save(str(links / "chain"))
    assert target.stat().st_ino != first and mode(target) == 0o600
    assert (links / "link").is_symlink() and (links / "chain").is_symlink()
    (links / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        save(str(links / "loop"))
    assert sorted(os.listdir(links)) == ["chain", "link", "loop"]
    assert os.listdir(target.parent) == ["target"]


def test_another_name_of_the_file_keeps_the_old_content(save: Save, folder: Path) -> None:
    path, other = folder / "path", folder / "other"
    path.write_bytes(b"old")
    other.hardlink_to(path)
    save(str(path))
    assert other.read_bytes() == b"old"
    assert path.read_bytes() != b"old"


def test_what_is_no_regular_file_is_not_replaced(save: Save, folder: Path) -> None:
    pipe, bound = folder / "pipe", folder / "socket"
    os.mkfifo(pipe)
    (folder / "link").symlink_to("pipe")
    (folder / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(bound))
        for path in (pipe, folder / "link", bound, Path("/dev/null")):
            before = path.lstat()
            with pytest.raises(OSError, match=r"regular file, got a (pipe|socket|character device)"):
                save(str(path))
            assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    for path, error in {
        folder / "directory": IsADirectoryError,
        f"{folder}/new/": IsADirectoryError,
        "": FileNotFoundError,
        folder / "none" / "file": FileNotFoundError,
        f"{folder}/socket/": NotADirectoryError,
    }.items():
        with pytest.raises(error):
            save(str(path))
    assert sorted(os.listdir(folder)) == ["directory", "link", "pipe", "socket"]


def test_names_of_any_bytes_and_length(save: Save, folder: Path) -> None:
    for name in (os.fsdecode(b"\xff\xfe.rvx"), "é" * 127, " "):
        save(str(folder / name))
        save(str(folder / name))
        assert (folder / name).stat().st_size > 0
    with pytest.raises(OSError, match="too long"):
        save(str(folder / ("n" * 256)))
    assert len(os.listdir(folder)) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_stay_and_where_they_can_not_no_one_is_let_in(folder: Path) -> None:
    path = folder / "file"
    rg.nn.Linear(2, 2, seed=0).save_weights(path)
    os.chown(path, 12_345, 54_321)
    path.chmod(0o640)
    rg.nn.Linear(2, 2, seed=0).save_weights(path)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (12_345, 54_321, 0o640)
    folder.chmod(0o777)
    script = (
        "import os, sys, ruvector_gnn as rg\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\n"
        "os.setgroups([]); os.setgid(999); os.setuid(999)\n"
        "rg.nn.Linear(2, 2, seed=0).save_weights(os.path.basename(sys.argv[1]))\n"
    )
    for before, after in ((0o640, 0o600), (0o664, 0o644), (0o6755, 0o755), (0o604, 0o600)):
        os.chown(path, 12_345, 54_321)
        path.chmod(before)
        subprocess.run([sys.executable, "-c", script, str(path)], check=True)
        assert (path.stat().st_uid, path.stat().st_gid) == (999, 999)
        assert mode(path) == after, oct(before)


READ = """
import os, sys
import numpy as np
import ruvector_gnn as rg

index = rg.HNSWIndex(4)
index.add(np.eye(4))
layer = rg.nn.Linear(2, 2, seed=0)
readers = [
    rg.HNSWIndex.load,
    lambda path: rg.HNSWIndex.load(path, mmap=True),
    lambda path: rg.SearchLearner.load(path, index),
    layer.load_weights,
    lambda path: layer.load_weights(path, mmap=True),
]
for path in sys.argv[1:]:
    for read in readers:
        try:
            read(path)
        except rg.FormatError as error:
            assert "expected a regular file, got a" in str(error), error
        except IsADirectoryError as error:
            assert os.path.isdir(path) and path in str(error), error
        else:
            raise AssertionError(path)
print("refused")
"""


def test_what_is_no_regular_file_is_not_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("pipe")
    paths = [folder / "pipe", folder / "link", folder, "/dev/zero", "/dev/null", "/dev/stdin"]
    command = [sys.executable, "-c", READ, *map(str, paths)]
    run = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60)
    assert run.stdout == "refused\n", run.stderr
