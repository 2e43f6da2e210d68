"""Ceph's object gateway: a real, distributed S3 on one machine, its single object store daemon keeping all in memory.

Debian's programs as plain processes: a monitor, one OSD (memstore), radosgw. Checks signatures, presigned requests,
POST policies and part sizes; ignores the newer checksum headers.
"""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from .parts import find_program
from .processes import answers, free_port, run, start, stop, wait_until
from .s3 import S3Server

__all__ = ["GUEST", "Ceph"]

GUEST = ("guest", "guestguest")
"""Keys of a user of his own, who may do what a bucket's policy lets `arn:aws:iam:::user/guest` do."""

_CONFIG = """\
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
mon initial members = a
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 6442450944
mon allow pool size one = true
mon max pg per osd = 2000
mon warn on pool no redundancy = false
mon data avail crit = 1
mon data avail warn = 2
mon osd full ratio = .99
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid

[mon.a]
mon data = {folder}/mon
ms bind msgr2 = false

[osd.0]
osd data = {folder}/osd

[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{rgw_port}
rgw enable usage log = false
rgw dns name = localhost
rgw thread pool size = 16
rgw zone = default
# Give the memory of what tests deleted back within seconds instead of hours.
rgw gc obj min wait = 5
rgw gc processor period = 10
rgw gc processor max time = 10
"""

_CAPS = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]


class Ceph:
    """A running gateway with its monitor and store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        mon_port, rgw_port = free_port(), free_port()
        self.info = S3Server("rgw", f"http://127.0.0.1:{rgw_port}", "test", "testtest")
        with self._stopping_on_failure():
            fsid = str(uuid.uuid4())
            for name in ("mon", "osd", "rgw"):
                (folder / name).mkdir()
            settings = _CONFIG.format(fsid=fsid, folder=folder, mon_port=mon_port, rgw_port=rgw_port)
            (folder / "ceph.conf").write_text(settings)
            self._write_keys()
            self._start_monitor(fsid, mon_port)
            self._start_store()
            self._start_gateway()

    def stop(self) -> None:
        # Nothing is worth a clean end: all of it is in memory.
        for daemon in self._daemons:
            daemon.kill()
        for daemon in self._daemons:
            stop(daemon)

    @contextlib.contextmanager
    def _stopping_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def _write_keys(self) -> None:
        keyring = self._folder / "keyring"
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        for name in ("client.admin", "osd.0", "client.rgw"):
            self._run("ceph-authtool", keyring, "--gen-key", "-n", name, *_CAPS)

    def _start_monitor(self, fsid: str, port: int) -> None:
        monmap, keyring = self._folder / "monmap", self._folder / "keyring"
        address = f"[v1:127.0.0.1:{port}]"
        self._run("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", fsid, monmap)
        self._run("ceph-mon", *self._conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._daemon("ceph-mon", "-i", "a")

    def _start_store(self) -> None:
        identity = str(uuid.uuid4())
        self._ceph("osd", "new", identity, "0")
        self._run("ceph-osd", *self._conf, "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._ceph("osd", "crush", "add-bucket", "h", "host")
        self._ceph("osd", "crush", "move", "h", "root=default")
        self._ceph("osd", "crush", "add", "osd.0", "1.0", "host=h")
        self._daemon("ceph-osd", "-i", "0")
        wait_until(lambda: "1 up" in self._ceph("osd", "stat"), process=self._daemons[-1])

    def _start_gateway(self) -> None:
        gateway = self._daemon("radosgw", "-n", "client.rgw")
        log = self._folder / "radosgw.out"
        wait_until(lambda: answers(self.info.endpoint), process=gateway, log=log, patience=90)
        keys = ["--access-key", self.info.access_key, "--secret-key", self.info.secret_key]
        self._run("radosgw-admin", *self._conf, "user", "create", "--uid", "test", "--display-name", "test", *keys)
        guest = ["--access-key", GUEST[0], "--secret-key", GUEST[1]]
        self._run("radosgw-admin", *self._conf, "user", "create", "--uid", "guest", "--display-name", "guest", *guest)

    @property
    def _conf(self) -> list[str | Path]:
        return ["-c", self._folder / "ceph.conf"]

    def _ceph(self, *command: str) -> str:
        return self._run("ceph", *self._conf, "--connect-timeout", "30", *command)

    def _daemon(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        argv = [_program(program), *self._conf, *arguments, "-f"]
        daemon = start(argv, log=self._folder / f"{program}.out", cwd=self._folder)
        self._daemons.append(daemon)
        return daemon

    def _run(self, program: str, *arguments: str | Path) -> str:
        return run([_program(program), *arguments], cwd=self._folder)


def _program(name: str) -> str:
    return find_program(name) or name
