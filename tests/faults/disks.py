"""Disks that can be filled, turned read-only, and taken away: real ones, where this user may mount."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

__all__ = ["Disk", "may_mount", "small_disk"]


class Disk:
    """A file system in memory, mounted at `root`, of which `kept` is always there."""

    def __init__(self, folder: Path, options: str) -> None:
        self.kept = folder / "disk"
        self.root = folder / "root"
        self.kept.mkdir()
        self.root.mkdir()
        _mount("-t", "tmpfs", "-o", options, "tmpfs", self.kept)
        self.insert()

    def insert(self) -> None:
        _mount("--bind", self.kept, self.root)

    def insert_as_another_device(self, options: str = "size=1m") -> None:
        """As a disk that comes back under another number: the same files."""
        copy = self.root.parent / "copy"
        shutil.copytree(self.kept, copy, copy_function=shutil.copy2)
        _mount("-t", "tmpfs", "-o", options, "tmpfs", self.root)
        shutil.copytree(copy, self.root, dirs_exist_ok=True)

    def remove(self) -> None:
        _unmount(self.root)

    def set_read_only(self, *, read_only: bool) -> None:
        _mount("-o", f"remount,bind,{'ro' if read_only else 'rw'}", self.root)

    def fill(self, *, leave: int = 0) -> Path:
        """Take all the room there is, less some bytes."""
        filler = self.kept / ".granite-filler"
        with filler.open("wb") as file, suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))
        if leave:
            os.truncate(filler, filler.stat().st_size - leave)
        return filler

    def fill_inodes(self) -> Path:
        """Take all the files there can be."""
        folder = self.kept / ".granite-filler"
        folder.mkdir()
        with suppress(OSError):
            for number in range(10**6):
                (folder / str(number)).touch()
        return folder

    def files(self) -> set[str]:
        """Everything on the disk, folders too."""
        return {str(path.relative_to(self.kept)) for path in self.kept.rglob("*")}

    def close(self) -> None:
        while _unmount(self.root):
            pass
        _unmount(self.kept)


@contextmanager
def small_disk(folder: Path, options: str = "size=1m") -> Iterator[Disk]:
    disk = Disk(folder, options)
    try:
        yield disk
    finally:
        disk.close()


@cache
def may_mount() -> bool:
    """Whether file systems can be mounted here."""
    if os.geteuid() != 0:
        return False
    folder = Path(tempfile.mkdtemp(prefix="granite-mount-"))
    try:
        _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
    except (OSError, subprocess.CalledProcessError):
        return False
    else:
        _unmount(folder)
        return True
    finally:
        folder.rmdir()


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def _unmount(path: Path) -> bool:
    return subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True).returncode == 0
