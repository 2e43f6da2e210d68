"""The disk beneath a folder: what the system says of it, and what follows. The judgement is pure."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from granite_core.findings import Finding, Severity

__all__ = ["DiskFacts", "judge_disk", "look_at_disk"]

GIB: Final = 1024**3
MIB: Final = 1024**2

_GONE_AT_REBOOT: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_OF_A_CONTAINER: Final = frozenset({"overlay", "aufs"})
_WITHOUT_LINKS: Final = frozenset({"vfat", "msdos", "exfat"})
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "9p", "virtiofs"})


class DiskFacts(msgspec.Struct, frozen=True):
    """What the system says.

    Args:
        folder: The folder asked about.
        exists: Whether it is there; else all is said of the nearest one above.
        mode: Its permissions.
        free: Bytes that are left for us.
        size: Bytes that the file system has.
        free_inodes: Files that can still be made; None where it does not count them.
        inodes: Files that it can hold.
        mount_point: Where it is mounted; empty where that cannot be found out.
        kind: Its type (``"ext4"``).
        read_only: Whether it is mounted read-only.
    """

    folder: str
    exists: bool
    mode: int
    free: int
    size: int
    free_inodes: int | None
    inodes: int
    mount_point: str = ""
    kind: str = ""
    read_only: bool = False


def look_at_disk(folder: str) -> DiskFacts:
    """Ask the system about a folder.

    Raises:
        OSError: It does not say.
    """
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    found, real = os.statvfs(path), os.path.realpath(path)
    mount_point, kind = _mount_of(real)
    return DiskFacts(
        folder=folder,
        exists=str(path) == folder,
        mode=stat.S_IMODE(path.stat().st_mode),
        free=found.f_bavail * found.f_frsize,
        size=found.f_blocks * found.f_frsize,
        free_inodes=found.f_favail if found.f_files else None,
        inodes=found.f_files,
        mount_point=mount_point,
        kind=kind,
        read_only=bool(found.f_flag & os.ST_RDONLY),
    )


def _mount_of(real: str) -> tuple[str, str]:
    """Mount point and type of the file system that holds a path (proc(5), "mountinfo")."""
    found = ("", "")
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:  # no Linux
        return found
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found[0]):  # of two at one place, the later one covers the other
            found = (point, after.split()[0])
    return found


def judge_disk(facts: DiskFacts, *, durable: bool) -> Iterator[Finding]:
    """Judge a disk.

    Args:
        facts: What the system says of it.
        durable: Whether what is written is to survive a power cut.
    """
    where = f"{facts.mount_point} ({facts.kind})" if facts.kind else facts.folder
    if not facts.exists:
        said = f"the folder {facts.folder} is not there yet; it is made at the first use"
        yield Finding("disk-folder", Severity.NOTE, said, "make it, where a disk is to be mounted there first")
    if facts.read_only:
        said = f"{where} is mounted read-only"
        advice = f"mount -o remount,rw {facts.mount_point or facts.folder}, after finding out why (dmesg)"
        yield Finding("disk-read-only", Severity.ERROR, said, advice)
    yield from _judge_room(facts, where)
    yield from _judge_kind(facts, where)
    if facts.exists and facts.mode & stat.S_IWOTH and not facts.mode & stat.S_ISVTX:
        said = f"every user of this machine may write into {facts.folder}"
        yield Finding("disk-open", Severity.WARNING, said, f"chmod o-w {facts.folder}")
    if not durable:
        said = (
            "durable=False: what was stored in the last seconds may be gone after a power cut, while its row is there"
        )
        yield Finding("disk-not-durable", Severity.WARNING, said, "leave durable out where files matter")


def _judge_room(facts: DiskFacts, where: str) -> Iterator[Finding]:
    left = f"{facts.free / GIB:.1f} GiB of {facts.size / GIB:.1f} GiB left"
    advice = "make room or grow the disk; `litestar granite status --store` says what the files take"
    if facts.free < min(100 * MIB, facts.size // 10):
        yield Finding("disk-full", Severity.ERROR, f"{where} is full: {left}", advice)
    elif facts.free < min(5 * GIB, facts.size // 10):
        yield Finding("disk-full", Severity.WARNING, f"{where} is nearly full: {left}", advice)
    else:
        yield Finding("disk-full", Severity.OK, f"{where}: {left}")
    if facts.free_inodes is not None and facts.free_inodes < facts.inodes // 20:
        bad = facts.free_inodes < facts.inodes // 100
        said = f"{where} can hold {facts.free_inodes} more files only, of {facts.inodes}"
        advice = "a file system with more inodes (mkfs -i, or XFS, which makes them as needed)"
        yield Finding("disk-inodes", Severity.ERROR if bad else Severity.WARNING, said, advice)


def _judge_kind(facts: DiskFacts, where: str) -> Iterator[Finding]:
    if facts.kind in _GONE_AT_REBOOT:
        said = f"{where} is kept in memory: all files are gone after a reboot"
        yield Finding("disk-volatile", Severity.ERROR, said, "use a folder on a disk")
    elif facts.kind in _OF_A_CONTAINER:
        said = f"{where} is a container's own layer: all files are gone with the container"
        yield Finding("disk-volatile", Severity.WARNING, said, "mount a volume there")
    elif facts.kind in _WITHOUT_LINKS:
        said = f"{where} knows no hard links, which storing a file in one step needs"
        yield Finding("disk-links", Severity.ERROR, said, "use ext4, XFS, Btrfs, ZFS or NFS")
    elif facts.kind in _REMOTE or facts.kind.startswith("fuse"):
        said = f"{where} is on the network, or in another program: how durable a stored file is, that side decides"
        advice = "NFS: export it with sync, mount it hard; let one clock serve both"
        yield Finding("disk-remote", Severity.NOTE, said, advice)
