"""Serving a file from local disk: a large one, small ones to many clients, and what needs no file at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tests.benchmarks.content import GIB, KIB, MIB, make_file
from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.loads import digest, discard, hammer
from tests.benchmarks.servers import Address, nginx, nginx_missing, serve
from tests.benchmarks.worker import Task, Work

CONNECTIONS = 16
Ask = Callable[[Address, Task], int | None]


def store_files(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Both files, stored as Granite stores them; who knows no refs is given the path."""
    from granite_core import LocalStorageBackend, StorageManager, StoragePolicy

    store = folder / "store"
    backend = LocalStorageBackend(store, durable=False)
    manager = StorageManager({"main": backend}, [StoragePolicy("files", "main")])
    found: dict[str, Any] = {"store": str(store)}
    for name in ("large", "small"):
        source = folder / name
        sha256 = make_file(source, values["sizes"][name])
        with source.open("rb") as stream:
            ref = manager.put_stream("files", stream=stream, original_filename="a.jpg")
        source.unlink()
        found[name] = {"path": str(store / ref.location), "ref": ref.to_dict(), "sha256": sha256}
    return found


# -------------------------------------------------------------------------------------------------- what is asked for
def large(address: Address, task: Task) -> None:
    size = discard(address.port, "/large")
    assert size == task["sizes"]["large"], size


def end_of_large(address: Address, task: Task) -> None:
    """The last quarter of the large file."""
    start = task["sizes"]["large"] * 3 // 4
    size = discard(address.port, "/large", headers={"Range": f"bytes={start}-"}, expect=206)
    assert size == task["sizes"]["large"] - start, size


def small(address: Address, task: Task) -> int:
    return hammer(address.port, "/small", seconds=task["seconds"], connections=CONNECTIONS)


def head_of_small(address: Address, task: Task) -> int:
    return hammer(address.port, "/small", seconds=task["seconds"], connections=CONNECTIONS, method="HEAD")


def unchanged(address: Address, task: Task) -> int:
    """What the client has already; a server that knows no validators is asked for what it has."""
    tag = f'"{task["small"]["ref"]["checksum"].removeprefix("sha256:")}"'
    if not task["validators"]:
        return small(address, task)
    return hammer(
        address.port,
        "/small",
        seconds=task["seconds"],
        connections=CONNECTIONS,
        headers={"If-None-Match": tag},
        expect=304,
    )


# --------------------------------------------------------------------------------------------------------- contenders
On: TypeAlias = Literal["uvicorn", "granian", "nginx", "nginx and uvicorn"]


@contextmanager
def serving(task: Task, ask: Ask, app: str, on: On, *, checked: bool = True, workers: int = 1) -> Iterator[Work]:
    with ExitStack() as stack:
        behind = []
        if on == "nginx":
            address = stack.enter_context(nginx(task.folder, _locations(task)))
        elif on == "nginx and uvicorn":
            asked = stack.enter_context(serve(f"download:{app}", task.folder, task.values))
            behind.append(asked.pid)
            address = stack.enter_context(nginx(task.folder, _OFFLOADED.format(store=task["store"]), before=asked.port))
        else:
            address = stack.enter_context(serve(f"download:{app}", task.folder, task.values, on=on, workers=workers))

        def check() -> None:
            for name in ("large", "small"):
                assert digest(address.port, f"/{name}") == task[name]["sha256"], name

        yield Work(
            lambda: ask(address, task),
            warm_up=lambda: discard(address.port, "/small"),
            check=check if checked else None,
            server=(address.pid, *behind),
        )


_OFFLOADED = """
location / {{
    proxy_pass http://behind;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
}}
location /_files/ {{
    internal;
    alias {store}/;
    etag off;
    if_modified_since off;
    add_header ETag $upstream_http_etag;
    add_header X-Content-Type-Options $upstream_http_x_content_type_options;
    add_header Content-Security-Policy $upstream_http_content_security_policy;
}}
"""


def _locations(task: Task) -> str:
    return "\n".join(f"location = /{name} {{ alias {task[name]['path']}; }}" for name in ("large", "small"))


def contender(
    name: str, ask: Ask, app: str = "", on: On = "uvicorn", *, checked: bool = True, workers: int = 1, **options: Any
) -> Contender:
    if "nginx" in on:
        options["missing"] = nginx_missing()
    needs = ("uvloop", "httptools", "uvicorn") if "uvicorn" in on else ("granian", "uvloop") if on == "granian" else ()
    options["needs"] = (*options.get("needs", ()), *needs)
    make = partial(serving, ask=ask, app=app, on=on, checked=checked, workers=workers)
    return Contender(name, make, **options)


def case(
    name: str, contenders: list[Contender], *, quick: bool, baseline: str, asks_large: bool, **options: Any
) -> Case:
    sizes = {"large": MIB if quick else GIB, "small": 10 * KIB}
    return Case(
        "download",
        name,
        contenders,
        baseline,
        values={"sizes": sizes, "seconds": 1 if quick else 2, "validators": True, **options.pop("values", {})},
        set_up=store_files,
        room=2 * GIB,
        unit="download" if asks_large else "request",
        **options,
    )


def cases(*, quick: bool) -> list[Case]:
    big = "1 MiB" if quick else "1 GiB"
    found = [
        case(
            f"{big}, one client",
            [
                contender("nginx", large, on="nginx", kind="floor", note="sendfile"),
                contender("pathsend, granian", large, "pathsend", "granian", kind="floor", note="sent by the server"),
                contender("raw ASGI, uvicorn", large, "raw", kind="floor"),
                contender("granite, uvicorn", large, "granite", kind="ours"),
                contender("granite, granian", large, "granite", "granian", kind="ours", note="left to the server"),
                contender("granite, granian, streamed", large, "granite_streamed", "granian", kind="ours"),
                contender("granite, offloaded", large, "granite_offloaded", "nginx and uvicorn", kind="ours"),
                contender("Litestar File, uvicorn", large, "litestar_file"),
                contender("Litestar File, granian", large, "litestar_file", "granian"),
                contender("Starlette FileResponse, uvicorn", large, "starlette_file", needs=("starlette",)),
                contender("granite-storage, uvicorn", large, "granite_storage", needs=("granite_storage", "starlette")),
                contender(
                    "advanced-alchemy, uvicorn", large, "advanced_alchemy", needs=("obstore",), note="whole in memory"
                ),
            ],
            quick=quick,
            baseline="nginx",
            asks_large=True,
            size=MIB if quick else GIB,
            rounds=5,
            goals=[
                Goal("granite, uvicorn", 1.33, metric="cpu"),
                Goal("granite, granian", 1.33, metric="cpu"),
                Goal("granite, offloaded", 1.0, metric="cpu"),
                Goal("granite, uvicorn", 4 * MIB, metric="memory"),
            ],
        ),
        case(
            f"the last quarter of {big}, one client",
            [
                contender("nginx", end_of_large, on="nginx", kind="floor", note="sendfile"),
                contender("granite, uvicorn", end_of_large, "granite", kind="ours"),
                contender("granite, offloaded", end_of_large, "granite_offloaded", "nginx and uvicorn", kind="ours"),
                contender("Starlette FileResponse, uvicorn", end_of_large, "starlette_file", needs=("starlette",)),
            ],
            quick=quick,
            baseline="nginx",
            asks_large=True,
            size=(MIB if quick else GIB) // 4,
            rounds=5,
            goals=[Goal("granite, uvicorn", 1.33, metric="cpu")],
        ),
        case(
            f"10 KiB, {CONNECTIONS} clients",
            [
                contender("hello, uvicorn", small, "hello", kind="floor", checked=False, note="Litestar, 5 bytes"),
                contender("hello, granian", small, "hello", "granian", kind="floor", checked=False),
                contender("nginx", small, on="nginx", kind="floor", note="sendfile"),
                contender("raw ASGI, uvicorn", small, "raw", kind="floor"),
                contender("granite, uvicorn", small, "granite", kind="ours"),
                contender("granite, uvicorn, two workers", small, "granite", workers=2, kind="ours"),
                contender("granite, granian", small, "granite", "granian", kind="ours"),
                contender("granite, offloaded", small, "granite_offloaded", "nginx and uvicorn", kind="ours"),
                contender("Litestar File, uvicorn", small, "litestar_file"),
                contender("Litestar File, granian", small, "litestar_file", "granian"),
                contender("Starlette FileResponse, uvicorn", small, "starlette_file", needs=("starlette",)),
                contender("granite-storage, uvicorn", small, "granite_storage", needs=("granite_storage", "starlette")),
                contender("advanced-alchemy, uvicorn", small, "advanced_alchemy", needs=("obstore",)),
            ],
            quick=quick,
            baseline="hello, uvicorn",
            asks_large=False,
            rounds=5,
            goals=[
                Goal("granite, uvicorn", 0.4, to="Litestar File, uvicorn"),
                Goal("granite, uvicorn", 0.4, to="Starlette FileResponse, uvicorn"),
                Goal("granite, uvicorn", 1.33),
                Goal("granite, granian", 1.33, to="hello, granian"),
            ],
        ),
        *(
            case(
                f"{what}, {CONNECTIONS} clients",
                [
                    contender(
                        "hello, uvicorn",
                        small if ask is unchanged else ask,
                        "hello",
                        kind="floor",
                        checked=False,
                        note="GET" if ask is unchanged else "",
                    ),
                    contender("granite, uvicorn", ask, "granite", kind="ours"),
                    *(
                        [contender("Starlette FileResponse, uvicorn", ask, "starlette_file", needs=("starlette",))]
                        if ask is head_of_small
                        else []
                    ),
                ],
                quick=quick,
                baseline="hello, uvicorn",
                asks_large=False,
                rounds=5,
                goals=[Goal("granite, uvicorn", 1.11)],
            )
            for what, ask in (("HEAD", head_of_small), ("304", unchanged))
        ),
    ]
    return [found[0], found[2], found[4]] if quick else found


__all__ = ["cases"]
