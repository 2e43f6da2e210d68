"""Taking files in over HTTP: one large one, as the body itself and in a form, and small forms from many clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.content import GIB, KIB, MIB, check_stored, clean, digest_of, make_file
from tests.benchmarks.harness import Case, Contender, Goal
from tests.benchmarks.loads import hammer, send
from tests.benchmarks.servers import Address, serve
from tests.benchmarks.worker import Task, Work

CONNECTIONS = 16
BOUNDARY = "granite-benchmark-2f1c9b7a"
TYPES = {"body": "application/octet-stream", "form": f"multipart/form-data; boundary={BOUNDARY}"}


def make_bodies(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The content as it is and in a form, and a small form to warm up with."""
    content = folder / "content"
    found = {"sha256": make_file(content, values["size"]), "body": str(content)}
    found["form"] = str(_wrap(content, folder / "form"))
    tiny = folder / "tiny"
    make_file(tiny, 1)
    return {**found, "tiny_body": str(tiny), "tiny_form": str(_wrap(tiny, folder / "tiny_form"))}


def _wrap(content: Path, target: Path) -> Path:
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    with target.open("wb") as file, content.open("rb") as stream:
        file.write(head.encode())
        while data := stream.read(MIB):
            file.write(data)
        file.write(f"\r\n--{BOUNDARY}--\r\n".encode())
    return target


@contextmanager
def serving(
    task: Task, app: str, sent: Literal["body", "form"], on: Literal["uvicorn", "granian"], many: bool
) -> Iterator[Work]:
    store = task.folder / "store"
    store.mkdir()
    headers = {"Content-Type": TYPES[sent]}
    last: dict[str, Any] = {}
    with serve(f"upload:{app}", task.folder, {}, on=on) as address:

        def one() -> None:
            last.update(send(address.port, "/", Path(task[sent]), headers=headers))

        def check() -> None:
            assert digest_of(Path(last["path"])) == task["sha256"]
            assert last.get("sha256", task["sha256"]) == task["sha256"]
            check_stored(store, task["sha256"], 1)

        yield Work(
            partial(_hammer, address, task, headers) if many else one,
            warm_up=lambda: send(address.port, "/", Path(task[f"tiny_{sent}"]), headers=headers),
            prepare=partial(clean, store),
            check=partial(_check_many, store, task["sha256"]) if many else check,
            server=address.pid,
        )


def _hammer(address: Address, task: Task, headers: dict[str, str]) -> int:
    return hammer(
        address.port,
        "/",
        seconds=task["seconds"],
        connections=CONNECTIONS,
        method="POST",
        headers=headers,
        body=Path(task["form"]),
        expect=201,
    )


def _check_many(store: Path, sha256: str) -> None:
    time.sleep(1)  # the client left while its last requests were being answered
    count = sum(each.is_file() and not each.name.endswith(".metadata.json") for each in store.rglob("*"))
    assert count
    check_stored(store, sha256, count)


def contender(
    name: str,
    app: str,
    sent: Literal["body", "form"],
    *,
    on: Literal["uvicorn", "granian"] = "uvicorn",
    many: bool = False,
    needs: tuple[str, ...] = (),
    **options: Any,
) -> Contender:
    needs = (*needs, "uvloop", *(("uvicorn", "httptools") if on == "uvicorn" else ("granian",)))
    return Contender(name, partial(serving, app=app, sent=sent, on=on, many=many), needs=needs, **options)


def forms(make: Callable[..., Contender]) -> list[Contender]:
    starlette = ("starlette", "python_multipart")
    return [
        make("raw ASGI, uvicorn", "raw_form", kind="floor"),
        make("granite, uvicorn", "granite_form", kind="ours"),
        make("granite, granian", "granite_form", on="granian", kind="ours"),
        make("Litestar UploadFile, uvicorn", "litestar_form", note="spooled, then hashed and copied"),
        make("Litestar UploadFile, granian", "litestar_form", on="granian", note="spooled, then hashed and copied"),
        make(
            "Starlette UploadFile, uvicorn", "starlette_form", needs=starlette, note="spooled, then hashed and copied"
        ),
        make(
            "granite-storage, uvicorn", "granite_storage_form", needs=("granite_storage", *starlette), note="Starlette"
        ),
        make(
            "sqlalchemy-file, uvicorn",
            "sqlalchemy_file_form",
            needs=("sqlalchemy_file", *starlette),
            note="Starlette; no hash",
        ),
        make(
            "advanced-alchemy, uvicorn",
            "advanced_alchemy_form",
            needs=("obstore",),
            note="Litestar; whole in memory; no hash",
        ),
    ]


def cases(*, quick: bool) -> list[Case]:
    raw_size, form_size = (MIB, MIB) if quick else (GIB, GIB // 2)

    def large(name: str, app: str, *, kind: Any = "peer", **options: Any) -> Contender:
        return contender(name, app, "form", kind=kind, **options)

    def small(name: str, app: str, *, kind: Any = "peer", **options: Any) -> Contender:
        return contender(name, app, "form", many=True, kind=kind, **options)

    found = [
        Case(
            "upload",
            f"raw body of {raw_size // MIB} MiB to a file, with SHA-256",
            [
                contender("raw ASGI, uvicorn", "raw_body", "body", kind="floor"),
                contender("raw ASGI, granian", "raw_body", "body", on="granian", kind="floor"),
                contender("granite, uvicorn", "granite_body", "body", kind="ours"),
                contender("granite, granian", "granite_body", "body", on="granian", kind="ours"),
                contender("Litestar stream, uvicorn", "litestar_body", "body", note="written by hand"),
            ],
            baseline="raw ASGI, uvicorn",
            values={"size": raw_size},
            rounds=5,
            size=raw_size,
            unit="upload",
            set_up=make_bodies,
            room=8 * raw_size,
            goals=[
                Goal("granite, uvicorn", 1.1, metric="cpu"),
                Goal("granite, granian", 1.1, to="raw ASGI, granian", metric="cpu"),
                Goal("granite, uvicorn", 4 * MIB, metric="memory"),
            ],
        ),
        Case(
            "upload",
            f"form with {form_size // MIB} MiB to a file, with SHA-256",
            forms(large),
            baseline="raw ASGI, uvicorn",
            values={"size": form_size},
            rounds=5,
            size=form_size,
            unit="upload",
            set_up=make_bodies,
            room=14 * form_size,
            goals=[
                Goal("granite, uvicorn", 1 / 1.8, to="Litestar UploadFile, uvicorn"),
                Goal("granite, granian", 1 / 1.8, to="Litestar UploadFile, granian"),
                Goal("granite, uvicorn", 4 * MIB, metric="memory"),
            ],
        ),
        Case(
            "upload",
            f"forms with 10 KiB to a file, with SHA-256, {CONNECTIONS} clients",
            forms(small),
            baseline="raw ASGI, uvicorn",
            values={"size": 10 * KIB, "seconds": 1 if quick else 2},
            rounds=5,
            unit="form",
            set_up=make_bodies,
            room=GIB,
            goals=[
                Goal("granite, uvicorn", 1 / 1.3, to="Litestar UploadFile, uvicorn"),
                Goal("granite, granian", 1 / 1.3, to="Litestar UploadFile, granian"),
            ],
        ),
    ]
    return [found[0], found[2]] if quick else found


__all__ = ["cases"]
