"""What others notice of a thousand slow clients, and what each of those costs.

The figure called time is the 99th percentile of how long a request of somebody else takes, for a file of 100 KiB, which
is read in a thread: were threads held by slow clients, it would wait. Memory is what the server grew by, for all of the
clients together.
"""

from __future__ import annotations

import http.client
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.content import KIB, MIB, make_file
from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.servers import ROOT, Address, serve
from tests.benchmarks.worker import Measured, Task, Watched, Work
from tests.support.parts import why_missing

CLIENTS = 1000
PER_CLIENT = 256 * KIB
THREADS = {"uvicorn": 32, "granian": 128}
"""Threads that may come, however many clients wait: 16 are the backend's, granian has a pool of its own for files."""


def store_files(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    from granite_core import LocalStorageBackend, StorageManager, StoragePolicy

    store = folder / "store"
    manager = StorageManager({"main": LocalStorageBackend(store, durable=False)}, [StoragePolicy("files", "main")])
    found: dict[str, Any] = {"store": str(store)}
    for name, size in (("large", 64 * MIB), ("medium", 100 * KIB)):
        make_file(folder / name, size)
        with (folder / name).open("rb") as stream:
            found[name] = manager.put_stream("files", stream=stream).to_dict()
    return found


@contextmanager
def serving(task: Task, app: str, on: Literal["uvicorn", "granian"], kinds: str, *, s3: bool = False) -> Iterator[Work]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the server's too
    values = dict(task.values)
    if s3:
        values |= _in_a_bucket(task)
    with serve(f"slow:{app}", task.folder, values, on=on) as address:
        yield Work(
            lambda: _beside_slow_clients(address, task, kinds, THREADS[on]),
            warm_up=lambda: _latencies(address, 0.5),
            server=address.pid,
        )


def _in_a_bucket(task: Task) -> dict[str, Any]:
    """The same files in a bucket of MiniStack's."""
    from granite_core import S3StorageBackend, StorageManager, StoragePolicy
    from tests.support.broker import ask
    from tests.support.s3 import S3Server

    server: S3Server = ask("ministack")
    bucket = server.create_bucket()
    backend = S3StorageBackend(bucket, client=server.client(), atomic_create=False)
    manager = StorageManager({"main": backend}, [StoragePolicy("files", "main")])
    found: dict[str, Any] = {}
    for name in ("large", "medium"):
        with Path(task["store"], task[name]["location"]).open("rb") as stream:
            found[name] = manager.put_stream("files", stream=stream).to_dict()
    found["s3"] = {
        "endpoint": server.endpoint,
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "bucket": bucket,
    }
    return found


def _beside_slow_clients(address: Address, task: Task, kinds: str, threads: int) -> Measured:
    if not kinds:
        return _measured(_latencies(address, task["seconds"]))
    idle, count = _threads(address.pid), task["clients"]
    argv = [sys.executable, "-m", "tests.benchmarks.trickle", str(address.port), str(count), kinds]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
        assert crowd.stdin is not None
        assert crowd.stdout is not None
        if crowd.stdout.readline() != "ready\n":
            raise RuntimeError("not all of the slow clients could begin")
        _wait_until_calm(address)
        found = _latencies(address, task["seconds"])
        more = _threads(address.pid) - idle
        crowd.stdin.close()
        cut = int(crowd.stdout.readline())
    if cut:
        raise RuntimeError(f"{cut} slow clients were cut off")
    if more > threads:
        raise RuntimeError(f"{more} threads more than before")
    return _measured(found)


def _wait_until_calm(address: Address) -> None:
    """Wait until the server is done with taking the clients on: the kernel takes in megabytes for each download."""
    server, calm = Watched((address.pid,)), 0
    for _ in range(90):
        before = server.cpu()
        time.sleep(1)
        calm = calm + 1 if server.cpu() - before < 0.2 else 0
        if calm == 3:
            return


def _latencies(address: Address, seconds: float) -> list[float]:
    """How long requests took, one after another over one connection."""
    line = http.client.HTTPConnection("127.0.0.1", address.port, timeout=60)
    end, found = time.perf_counter() + seconds, []
    while (began := time.perf_counter()) < end:
        line.request("GET", "/medium")
        answer = line.getresponse()
        if answer.status != 200 or len(answer.read()) != 100 * KIB:
            raise RuntimeError(f"answered {answer.status}")
        found.append(time.perf_counter() - began)
        time.sleep(0.002)  # somebody else, not a load of its own
    line.close()
    return found


def _measured(latencies: list[float]) -> Measured:
    latencies.sort()
    return Measured(len(latencies), latencies[math.ceil(len(latencies) * 0.99) - 1])


def _threads(pid: int) -> int:
    """Threads of a process and of its children."""
    children = [int(each) for path in Path(f"/proc/{pid}/task").glob("*/children") for each in path.read_text().split()]
    return sum(len(list(Path(f"/proc/{each}/task").iterdir())) for each in (pid, *children))


def contender(
    name: str, kinds: str, app: str = "granite", on: Literal["uvicorn", "granian"] = "uvicorn", **options: Any
) -> Contender:
    s3 = options.pop("s3", False)
    needs = ("uvloop", "httptools", "uvicorn") if on == "uvicorn" else ("granian", "uvloop")
    if s3:
        options["missing"] = why_missing("ministack")
    kind = "floor" if not kinds else "ours" if app.startswith("granite") else "peer"
    return Contender(name, partial(serving, app=app, on=on, kinds=kinds, s3=s3), kind=kind, needs=needs, **options)


def cases(*, quick: bool) -> list[Case]:
    clients = 40 if quick else CLIENTS
    ours = [
        contender("downloads", "down"),
        contender("raw uploads", "raw"),
        contender("form uploads", "form"),
        contender("all at once", "down,raw,form"),
        contender("all at once, granian", "down,raw,form", on="granian", note="downloads are left to the server"),
        contender("all at once, granian, streamed", "down,raw,form", app="granite_streamed", on="granian"),
    ]
    more = [
        contender("nobody, granian", "", on="granian"),
        contender("nobody, S3", "", s3=True),
        contender("uploads to S3", "raw,form", s3=True),
        contender("Litestar File, downloads", "down", app="litestar"),
        contender("Litestar UploadFile, form uploads", "form", app="litestar"),
    ]
    contenders = [contender("nobody", "", note="no slow clients")]
    contenders += [ours[3]] if quick else [*ours, *more]
    names = [each.name for each in contenders if each.kind == "ours"]
    idle = {name: next((f"nobody, {each}" for each in ("granian", "S3") if each in name), None) for name in names}
    return [
        Case(
            "slow_clients",
            f"{clients} slow clients, a request beside them",
            contenders,
            "nobody",
            values={"seconds": 1 if quick else 5, "clients": clients},
            set_up=store_files,
            room=200 * MIB,
            rounds=5,
            unit="request",
            goals=[
                *(Goal(each, 2.0, to=idle[each]) for each in names),
                *(Goal(each, clients * PER_CLIENT, metric="memory") for each in names),
            ],
        )
    ]


__all__ = ["cases"]
