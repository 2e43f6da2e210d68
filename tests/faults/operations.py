"""What an application does with files, each written as one would write it, and so that it can be done again."""

from __future__ import annotations

import asyncio
import io
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from litestar import Litestar, post, put
from litestar.params import FromPath
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from granite_core import StagedFile, StoredObjectRef, unsaved
from granite_core.backends.base import SignedRequest
from granite_core.backends.local import TEMPORARY_PREFIX
from granite_core.integrations.sqlalchemy import SQLAlchemyUploadLedger
from granite_core.testing.conformance.receiving import send
from granite_core.uploads import Direct, DirectSettings, Uploads
from granite_litestar import GraniteConfig, GranitePlugin, MultipartBody, RawUpload, Upload, UploadDTO
from tests.faults.world import MIB, Base, Document, Rows, World, digest
from tests.support.upload_apps import Conversation

__all__ = ["OPERATIONS", "FailedAnswerError", "Operation"]

BIG: Final = bytes(range(256)) * (5 * MIB // 256 + 1)
"""Two parts of a multipart upload."""


class FailedAnswerError(Exception):
    """The application answered that it failed."""


class Operation(ABC):
    """One operation. `salt` makes its content differ from that of the time before."""

    name: ClassVar[str]
    sparse: ClassVar[int] = 1
    """How much fewer of its moments are tried than of others', without GRANITE_DEEP=1."""
    everywhere: ClassVar[bool] = True
    """Whether that is done in every place; else in one."""

    def prepare(self, world: World) -> None:  # noqa: B027 - storing works on nothing
        """Make what it works on, where that is not there yet."""

    @abstractmethod
    def run(self, world: World, salt: str) -> None:
        """Do it; done before, do nothing, or the same again."""

    def outcome(self, before: Rows, salt: str) -> Rows:
        """What is committed when it has been done."""
        return before


class PutSmall(Operation):
    """Stored and never attached."""

    name = "put small"

    def run(self, world: World, salt: str) -> None:
        world.manager.put_bytes("documents", content=salt.encode())


class PutMultipart(Operation):
    """Stored in parts and never attached."""

    name = "put multipart"

    def run(self, world: World, salt: str) -> None:
        world.manager.put_stream("documents", stream=io.BytesIO(BIG + salt.encode()))


class Attach(Operation):
    """A staged file and an unsaved one, in a new row."""

    name = "attach and commit"

    def prepare(self, world: World) -> None:
        _remove(world, "new")

    def run(self, world: World, salt: str) -> None:
        with world.session() as session:
            if _find(session, "new") is None:
                file = world.manager.put_bytes("documents", content=f"file {salt}".encode())
                session.add(Document(title="new", file=file, pages=[unsaved(f"page {salt}".encode())]))
                session.commit()

    def outcome(self, before: Rows, salt: str) -> Rows:
        return {**before, "new": (digest(f"file {salt}".encode()), (digest(f"page {salt}".encode()),))}


class Replace(Operation):
    """A file takes the place of another."""

    name = "replace"

    def prepare(self, world: World) -> None:
        _keep(world)

    def run(self, world: World, salt: str) -> None:
        with world.session() as session:
            document = _find(session, "kept")
            document.file = unsaved(f"file {salt}".encode())
            session.commit()

    def outcome(self, before: Rows, salt: str) -> Rows:
        return {**before, "kept": (digest(f"file {salt}".encode()), before["kept"][1])}


class Delete(Operation):
    """A row goes, with its file and pages."""

    name = "delete"

    def prepare(self, world: World) -> None:
        _keep(world, "doomed")

    def run(self, world: World, salt: str) -> None:
        _remove(world, "doomed")

    def outcome(self, before: Rows, salt: str) -> Rows:
        return {title: row for title, row in before.items() if title != "doomed"}


class ListChange(Operation):
    """One page goes, another comes."""

    name = "list change"

    def prepare(self, world: World) -> None:
        _keep(world)

    def run(self, world: World, salt: str) -> None:
        with world.session() as session:
            document, content = _find(session, "kept"), f"page {salt}".encode()
            if document.pages[-1].checksum != digest(content):
                del document.pages[0]
                document.pages.append(unsaved(content))
                session.commit()

    def outcome(self, before: Rows, salt: str) -> Rows:
        file, pages = before["kept"]
        return {**before, "kept": (file, (*pages[1:], digest(f"page {salt}".encode())))}


class Copy(Operation):
    """A copy of a row's file, in a row of its own."""

    name = "copy"

    def prepare(self, world: World) -> None:
        _keep(world)
        _remove(world, "copy")

    def run(self, world: World, salt: str) -> None:
        with world.session() as session:
            if _find(session, "copy") is None:
                kept = _find(session, "kept").file
                session.add(Document(title="copy", file=world.manager.copy(kept)))
                session.commit()

    def outcome(self, before: Rows, salt: str) -> Rows:
        return {**before, "copy": (before["kept"][0], ())}


class Sweep(Operation):
    """Two objects go; one stays that a row holds although a tombstone names it."""

    name = "sweep"

    def prepare(self, world: World) -> None:
        _keep(world)
        for number in range(2):
            world.store.put_bytes(f"d/gone-{number}-{time.monotonic_ns()}", b"gone")
        with world.session() as session:
            world.bury(_find(session, "kept").file.location)
        for location in world.store.iter_locations("d/gone"):
            world.bury(location)

    def run(self, world: World, salt: str) -> None:
        _succeeded(world.collector.sweep())


class Reconcile(Operation):
    """Three objects that nobody knows are found, and what a dead writer left."""

    name = "reconcile"

    def prepare(self, world: World) -> None:
        _keep(world)
        for number in range(3):
            world.store.put_bytes(f"d/stray-{number}-{time.monotonic_ns()}", b"stray")
        if isinstance(world.place.store, str):
            left = Path(world.place.store, "d", f"{TEMPORARY_PREFIX}0123")
            left.write_bytes(b"half")
            os.utime(left, (0, 0))

    def run(self, world: World, salt: str) -> None:
        _succeeded(world.collector.reconcile())


class NewDocument(UploadDTO):
    title: str
    file: Annotated[StagedFile, Upload(Document.file)]


class Uploaded(Operation):
    """An upload through the application's route, to the end of its request."""

    def prepare(self, world: World) -> None:
        _remove(world, "uploaded")
        _app(world)

    def outcome(self, before: Rows, salt: str) -> Rows:
        return {**before, "uploaded": (digest(self.content(salt)), ())}

    def content(self, salt: str) -> bytes:
        return f"upload {salt}".encode()

    def ask(self, world: World, method: str, chunks: list[bytes], headers: list[tuple[str, str]]) -> None:
        async def main() -> int:
            try:
                answer = await Conversation(_app(world), method, "/uploaded", chunks=chunks, headers=headers).run()
            finally:
                with world.steps.paused():
                    await world.disconnect()
            assert str(world.place.store).encode() not in answer.body
            return answer.status

        status = asyncio.run(main())
        if status >= 500:
            raise FailedAnswerError(status)
        assert status in (200, 201)


class UploadRaw(Uploaded):
    name = "upload, raw"

    def run(self, world: World, salt: str) -> None:
        body = self.content(salt)
        headers = [("content-type", "application/octet-stream"), ("content-length", str(len(body)))]
        self.ask(world, "PUT", [body[:3], body[3:]], headers)


class UploadForm(Uploaded):
    name = "upload, form"

    def run(self, world: World, salt: str) -> None:
        body = (
            b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nuploaded\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
            + self.content(salt)
            + b"\r\n--x--\r\n"
        )
        headers = [("content-type", "multipart/form-data; boundary=x"), ("content-length", str(len(body)))]
        self.ask(world, "POST", [body[:150], body[150:]], headers)


class UploadInGoes(Operation):
    """An upload in two goes, by processes that do not know each other; finished, and taken by a row."""

    name = "upload in goes"

    def prepare(self, world: World) -> None:
        _remove(world, "uploaded")

    def run(self, world: World, salt: str) -> None:
        content = self.content(salt)
        uploads = Uploads(world.manager, SQLAlchemyUploadLedger(world.engine, Base.metadata))
        with world.session() as session:
            if _find(session, "uploaded") is not None:
                return
        made = uploads.create("documents", kind="test", length=len(content))
        with uploads.receive(made.id, offset=0) as reception:
            reception.write(content[:5000])
        with uploads.receive(made.id, offset=uploads.find(made.id).offset) as reception:
            reception.write(content[reception.offset :])
            finished = reception.finish()
        assert finished is not None
        with world.session() as session:
            session.add(Document(title="uploaded", file=finished.file))
            session.commit()

    def content(self, salt: str) -> bytes:
        return b"x" * 9000 + salt.encode()

    def outcome(self, before: Rows, salt: str) -> Rows:
        return {**before, "uploaded": (digest(self.content(salt)), ())}


class UploadDirectly(Operation):
    """A client sends its bytes to the store, or to the application in its place; they are taken over, by a row at last.

    What the client does to the store is a step of nobody's. In the deaths between, all that there is may be: a session,
    parts that no session knows, bytes where no row looks, a copy that no session holds yet.
    """

    name = "upload directly"
    sparse = 3
    settings = DirectSettings()

    def prepare(self, world: World) -> None:
        _remove(world, "uploaded")

    def run(self, world: World, salt: str) -> None:
        content = self.content(salt)
        with world.session() as session:
            if _find(session, "uploaded") is not None:
                return
        uploads = Uploads(world.manager, SQLAlchemyUploadLedger(world.engine, Base.metadata))
        direct = Direct(uploads, lambda token: token, self.settings)
        begun = direct.begin("documents", size=len(content), checksum=digest(content))
        told = direct.instructions(begun)
        size = len(content) if told.parts is None else told.parts.size
        for number, request in enumerate([told.request] if told.parts is None else told.parts.requests):
            assert request is not None
            data = content[number * size : (number + 1) * size]
            if request.url.startswith("http"):
                with world.steps.paused():
                    assert send(SignedRequest(request.method, request.url, request.headers), data)[0] == 200
            else:
                direct.receive(request.url, [data[:5], data[5:]])
        finished = direct.complete(begun.id)
        with world.session() as session:
            session.add(Document(title="uploaded", file=finished.file))
            session.commit()

    def content(self, salt: str) -> bytes:
        return b"x" * 9000 + salt.encode()

    def outcome(self, before: Rows, salt: str) -> Rows:
        return {**before, "uploaded": (digest(self.content(salt)), ())}


class UploadDirectlyInParts(UploadDirectly):
    """The same in two parts: a multipart upload where the store has such, else an object for each."""

    name = "upload directly, in parts"
    everywhere = False
    settings = DirectSettings(parts_above=1, part_size=5 * MIB)

    def content(self, salt: str) -> bytes:
        return BIG + salt.encode()


OPERATIONS: Final[dict[str, Operation]] = {
    each.name: each
    for each in (
        *(PutSmall(), PutMultipart(), Attach(), Replace(), Delete(), ListChange(), Copy(), Sweep(), Reconcile()),
        *(UploadRaw(), UploadForm(), UploadInGoes(), UploadDirectly(), UploadDirectlyInParts()),
    )
}


# -- small things ------------------------------------------------------------------------------------------------------


def _succeeded(report: Any) -> None:
    """A run does not raise for one object, or one store, that failed: its report says so."""
    if report.problems:
        raise FailedAnswerError(report.problems)


def _find(session: Any, title: str) -> Any:
    return session.scalar(select(Document).where(Document.title == title))


def _remove(world: World, title: str) -> None:
    with world.session() as session:
        document = _find(session, title)
        if document is not None:
            session.delete(document)
            session.commit()


def _keep(world: World, title: str = "kept") -> None:
    with world.session() as session:
        if _find(session, title) is None:
            pages: list[StoredObjectRef] = [unsaved(f"{title} page {number}".encode()) for number in range(2)]
            session.add(Document(title=title, file=unsaved(f"{title} file".encode()), pages=pages))
            session.commit()


def _app(world: World) -> Litestar:
    """The application of a world, made once."""
    if (made := getattr(world, "app", None)) is None:

        async def save(title: str, file: StagedFile) -> None:
            async with AsyncSession(world.async_engine, expire_on_commit=False) as session:
                document = await session.scalar(select(Document).where(Document.title == title))
                if document is None:
                    document = Document(title=title)
                    session.add(document)
                document.file = file
                await session.commit()

        @put("/{title:str}")
        async def take_raw(title: FromPath[str], data: Annotated[StagedFile, RawUpload(Document.file)]) -> None:
            await save(title, data)

        @post("/{title:str}")
        async def take_form(title: FromPath[str], data: MultipartBody[NewDocument]) -> None:
            await save(data.title, data.file)

        plugin = GranitePlugin(GraniteConfig(manager=world.manager, gc=None))
        made = world.app = Litestar([take_raw, take_form], plugins=[plugin], logging_config=None)
    return made
