"""Backends that break the contract in one way each; their names say how."""

from __future__ import annotations

import io
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import msgspec

from granite_core.backends.base import Capability, ObjectReader, ObjectStat, ObjectWriter, ResumableWriter
from granite_core.backends.memory import MemoryStorageBackend
from granite_core.errors import AccessDeniedError, BackendError, ObjectNotFoundError
from granite_core.findings import Finding
from granite_core.refs import StoredObjectRef


class Writer(ObjectWriter):
    """A writer to break: passes everything on."""

    def __init__(self, backend: Broken, location: str) -> None:
        self.backend = backend
        self.location = location
        self.inner = super(Broken, backend).open_writer(location)

    def write(self, data: Any, /) -> None:
        self.inner.write(data)

    def commit(self) -> None:
        self.inner.commit()

    def abort(self) -> None:
        self.inner.abort()


class Broken(MemoryStorageBackend):
    writer: type[Writer] = Writer

    def open_writer(self, location: str, **_: Any) -> ObjectWriter:
        return self.writer(self, location)

    def overwrite(self, location: str, content: bytes) -> None:
        MemoryStorageBackend.delete(self, location)
        self._store(location, content)


class IsVisibleWhileItIsWritten(Broken):
    class writer(Writer):
        content = b""

        def write(self, data: Any, /) -> None:
            self.content += bytes(data)
            self.backend.overwrite(self.location, self.content)

        def commit(self) -> None: ...


class KeepsWhatWasAborted(Broken):
    class writer(Writer):
        def abort(self) -> None:
            if self.inner._buffer:
                self.inner.commit()


class UndoesACommitByAnAbort(Broken):
    class writer(Writer):
        def abort(self) -> None:
            self.backend.delete(self.location)


class OverwritesATakenKey(Broken):
    class writer(Writer):
        def commit(self) -> None:
            self.backend.delete(self.location)
            self.inner.commit()


class KeepsTheCallersBuffer(Broken):
    class writer(Writer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.kept: list[Any] = []

        def write(self, data: Any, /) -> None:
            self.kept.append(data)

        def commit(self) -> None:
            for data in self.kept:
                self.inner.write(data)
            self.inner.commit()


class CutsLargeObjects(Broken):
    class writer(Writer):
        left = 8 * 1024 * 1024

        def write(self, data: Any, /) -> None:
            piece = memoryview(data).cast("B")[: self.left]
            self.left -= len(piece)
            self.inner.write(piece)


class HasNoEmptyObjects(Broken):
    class writer(Writer):
        def commit(self) -> None:
            if self.inner._buffer:
                self.inner.commit()


class TakesAPrefixForAFolder(Broken):
    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        folder = prefix and prefix.rstrip("/") + "/"
        return super().list_objects(prefix=folder, start_after=start_after)


class SortsByFolders(Broken):
    def list_objects(self, **arguments: Any) -> Iterator[ObjectStat]:
        yield from sorted(super().list_objects(**arguments), key=lambda each: each.location.split("/"))


class SortsAsUTF16(Broken):
    def list_objects(self, **arguments: Any) -> Iterator[ObjectStat]:
        yield from sorted(super().list_objects(**arguments), key=lambda each: each.location.encode("utf-16-be"))


class RepeatsTheKeyItStartsAfter(Broken):
    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        return (each for each in super().list_objects(prefix=prefix) if each.location >= (start_after or ""))


class ListsOnePage(Broken):
    def list_objects(self, **arguments: Any) -> Iterator[ObjectStat]:
        return (each for _, each in zip(range(1000), super().list_objects(**arguments), strict=False))


class ListsWhatIsReserved(Broken):
    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        for key in list(self._keys):
            if key.decode().startswith(prefix):
                yield self._objects[key][1]


class ForgetsTheTimeZone(Broken):
    def stat(self, location: str) -> ObjectStat:
        found = super().stat(location)
        return ObjectStat(location, found.size, found.modified.replace(tzinfo=None))


class TakesAbsentForForbidden(Broken):
    def stat(self, location: str) -> ObjectStat:
        try:
            return super().stat(location)
        except ObjectNotFoundError:
            raise AccessDeniedError("forbidden", location=location) from None


class OpensAbsentObjects(Broken):
    def open_reader(self, location: str, **arguments: Any) -> ObjectReader:
        if not self.exists(location):
            MemoryStorageBackend.put_bytes(self, location, b"")
        return super().open_reader(location, **arguments)


class RefusesARangeBehindTheEnd(Broken):
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        if offset >= self.stat(location).size > 0:
            raise BackendError("InvalidRange")
        return super().open_reader(location, offset=offset, length=length)


class ReadsOneByteTooMany(Broken):
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        return super().open_reader(location, offset=offset, length=length and length + 1)


class MixesVersions(Broken):
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        reader = super().open_reader(location, offset=offset, length=length)
        read = reader.read

        def live(size: int = -1, /) -> bytes:
            reader._content = self._find(location)[0]
            return read(size)

        reader.read = live  # type: ignore[method-assign]
        return reader


class ComplainsOfASecondDelete(Broken):
    def delete(self, location: str) -> None:
        self.stat(location)
        super().delete(location)


class DeletesWholeFolders(Broken):
    def delete(self, location: str) -> None:
        for each in list(self.list_objects(prefix=location)):
            super().delete(each.location)


class DeletesManyByTheirFolders(Broken):
    def delete_many(self, locations: Collection[str]) -> dict[str, Exception]:
        for folder in {each.rpartition("/")[0] for each in locations}:
            for each in list(self.list_objects(prefix=folder)):
                self.delete(each.location)
        return {}


class DropsWhitespaceWhereItDeletesMany(Broken):
    def delete_many(self, locations: Collection[str]) -> dict[str, Exception]:
        for each in locations:
            self.delete(each.strip())
        return {}


class MissesWhatIsAbsentAmongMany(Broken):
    def delete_many(self, locations: Collection[str]) -> dict[str, Exception]:
        absent = {each: ObjectNotFoundError("delete: absent") for each in locations if not self.exists(each)}
        return {**super().delete_many(locations), **absent}


class DeletesAThousandAtMost(Broken):
    capabilities = Broken.capabilities | {Capability.BATCH_DELETE}

    def delete_many(self, locations: Collection[str]) -> Mapping[str, Exception]:
        return super().delete_many(list(locations)[:1000])


class ClosesTheCallersStream(Broken):
    def put_stream(self, key: str, stream: Any, **arguments: Any) -> StoredObjectRef:
        ref = super().put_stream(key, stream, **arguments)
        stream.close()
        return ref


class ReadsTheStreamFromItsBeginning(Broken):
    def put_stream(self, key: str, stream: Any, **arguments: Any) -> StoredObjectRef:
        if isinstance(stream, io.BytesIO):
            stream.seek(0)
        return super().put_stream(key, stream, **arguments)


class BelievesWhatIsAnnounced(Broken):
    def put_stream(
        self, key: str, stream: Any, *, size: Any = None, checksum: Any = None, **named: Any
    ) -> StoredObjectRef:
        return super().put_stream(key, stream, **named)


class FoldsCase(Broken):
    def _store(self, location: str, content: bytes) -> None:
        super()._store(location.lower(), content)

    def _find(self, location: str) -> tuple[bytes, ObjectStat]:
        return super()._find(location.lower())


class LeavesAHalfCopy(Broken):
    def copy(self, source: str, target: str) -> None:
        MemoryStorageBackend.put_bytes(self, target, b"")
        content = self.get(source)
        self.overwrite(target, content)


# -- writing -----------------------------------------------------------------------------------------------------------


class KeepsOnlyTheLastPiece(Broken):
    class writer(Writer):
        def write(self, data: Any, /) -> None:
            self.inner._buffer.clear()
            self.inner.write(data)


class TakesMoreAfterItsCommit(Broken):
    class writer(Writer):
        content = b""

        def write(self, data: Any, /) -> None:
            self.content += bytes(data)

        def commit(self) -> None:
            self.backend.overwrite(self.location, self.content)


class RevivesAnAbortedWriter(Broken):
    class writer(Writer):
        def abort(self) -> None:
            self.inner = super(Broken, self.backend).open_writer(self.location)


class CommitsWhatIsLeft(Broken):
    class writer(Writer):
        def __exit__(self, *_: object) -> None:
            self.commit()


class ComplainsOfASecondAbort(Broken):
    class writer(Writer):
        aborted = False

        def abort(self) -> None:
            if self.aborted:
                raise BackendError("already aborted")
            self.aborted = True
            self.inner.abort()


class CutsLargeContents(Broken):
    def put_bytes(self, key: str, content: bytes, **named: Any) -> StoredObjectRef:
        return super().put_bytes(key, content[: 8 * 1024 * 1024], **named)


class TakesOnlyBytes(Broken):
    class writer(Writer):
        def write(self, data: Any, /) -> None:
            if not isinstance(data, bytes):
                raise BackendError("bytes are wanted")
            self.inner.write(data)


class KeepsABufferForEachThread(Broken):
    class writer(Writer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.mine = threading.local()

        def write(self, data: Any, /) -> None:
            self.mine.content = getattr(self.mine, "content", b"") + bytes(data)

        def commit(self) -> None:
            self.inner.write(getattr(self.mine, "content", b""))
            self.inner.commit()


class KeepsOneTemporaryFileForAKey(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.unfinished: dict[str, bytes] = {}

    class writer(Writer):
        def write(self, data: Any, /) -> None:
            held = self.backend.unfinished
            held[self.location] = held.get(self.location, b"") + bytes(data)

        def commit(self) -> None:
            self.inner.write(self.backend.unfinished.pop(self.location, b""))
            self.inner.commit()

        def abort(self) -> None:
            self.backend.unfinished.pop(self.location, None)


class KeepsWhatABrokenStreamGave(Broken):
    def put_stream(self, key: str, stream: Any, **named: Any) -> StoredObjectRef:
        content = b""
        try:
            while data := stream.read(65536):
                content += data
        finally:
            ref = super().put_stream(key, io.BytesIO(content), **named)
        return ref


class ReadsAStreamOnce(Broken):
    def put_stream(self, key: str, stream: Any, **named: Any) -> StoredObjectRef:
        return super().put_stream(key, io.BytesIO(stream.read(1024 * 1024)), **named)


class ForgetsTheName(Broken):
    def put_stream(self, key: str, stream: Any, *, original_filename: Any = None, **named: Any) -> StoredObjectRef:
        return super().put_stream(key, stream, **named)


# -- deleting, clearing, closing ---------------------------------------------------------------------------------------


class DeletesNothing(Broken):
    def delete(self, location: Any) -> None: ...


class DeletesTheFolderToo(Broken):
    def delete(self, location: Any) -> None:
        for each in list(self.list_objects(prefix=location.rpartition("/")[0] + "/")):
            super().delete(each.location)


class ClearsWhatIsAtWork(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.writers: list[ObjectWriter] = []

    def open_writer(self, location: str, **_: Any) -> ObjectWriter:
        self.writers.append(super().open_writer(location))
        return self.writers[-1]

    def clear_unfinished(self, older_than: timedelta) -> int:
        for each in self.writers:
            each.abort()
        return 0


class CountsTheSameLeftoverForEver(Broken):
    def clear_unfinished(self, older_than: timedelta) -> int:
        return 1


class IsDeadOnceItWasClosed(Broken):
    closed = False

    def close(self) -> None:
        self.closed = True

    def _find(self, location: str) -> tuple[bytes, ObjectStat]:
        if self.closed:
            raise BackendError("the backend is closed")
        return super()._find(location)


# -- reading -----------------------------------------------------------------------------------------------------------


class Reader(ObjectReader):
    """A reader to break: passes everything on."""

    def __init__(self, inner: ObjectReader) -> None:
        self.inner = inner
        self.size = inner.size

    def read(self, size: int = -1, /) -> bytes:
        return self.inner.read(size)

    def close(self) -> None:
        self.inner.close()


class Misread(Broken):
    reader: type[Reader] = Reader

    def open_reader(self, location: str, **arguments: Any) -> ObjectReader:
        return self.reader(super().open_reader(location, **arguments))


class EndsNowAndThen(Misread):
    class reader(Reader):
        read_before = False

        def read(self, size: int = -1, /) -> bytes:
            self.read_before = not self.read_before
            return self.inner.read(size) if self.read_before else b""


class TakesZeroForEverything(Misread):
    class reader(Reader):
        def read(self, size: int = -1, /) -> bytes:
            return self.inner.read(size or -1)


class ComplainsOfASecondClose(Misread):
    class reader(Reader):
        closed = False

        def close(self) -> None:
            if self.closed:
                raise BackendError("already closed")
            self.closed = True


class ShowsWhatIsAtHandTwice(Misread):
    class reader(Reader):
        shown = b""

        def read(self, size: int = -1, /) -> bytes:
            self.shown = self.inner.read(size)
            return self.shown

        def read_at_hand(self, size: int, /) -> bytes | None:
            return self.shown[:size] or None


class ReadsEverythingAtOnce(Misread):
    class reader(Reader):
        def __init__(self, inner: ObjectReader) -> None:
            super().__init__(inner)
            self.content = io.BytesIO(bytes(bytearray(inner.read())))

        def read(self, size: int = -1, /) -> bytes:
            return self.content.read(size)


class EndsAtAPart(Broken):
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        left = 8 * 1024 * 1024 - offset % (8 * 1024 * 1024)
        return super().open_reader(location, offset=offset, length=left if length is None else min(left, length))


class SharesOneReader(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[str, ObjectReader] = {}

    def open_reader(self, location: str, **arguments: Any) -> ObjectReader:
        return self.readers.setdefault(location, super().open_reader(location, **arguments))


class DoesNotLookForAnEmptyRange(Broken):
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        if length == 0 and not self.exists(location):
            MemoryStorageBackend.put_bytes(self, "empty", b"")
            location = "empty"
        return super().open_reader(location, offset=offset, length=length)


class RefusesRangesOfEmptyObjects(Broken):
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        if offset and not self.stat(location).size:
            raise BackendError("InvalidRange")
        return super().open_reader(location, offset=offset, length=length)


class HasOneEtag(Broken):
    def stat(self, location: str) -> ObjectStat:
        return msgspec.structs.replace(super().stat(location), etag="etag")


class TakesSilenceForYes(Broken):
    def exists(self, ref: Any) -> bool:
        return True


class CannotSeek(Broken):
    def open(self, ref: Any, **arguments: Any) -> BinaryIO:
        class File(io.BytesIO):
            def seekable(self) -> bool:
                return False

        return File(super().open(ref, **arguments).read())


class DoesNotTellItsPosition(Broken):
    def open(self, ref: Any, **arguments: Any) -> BinaryIO:
        class File(io.BytesIO):
            def tell(self) -> int:
                return 0

        return File(super().open(ref, **arguments).read())


class OpensTheWholeForARange(Broken):
    def open(self, ref: Any, **_: Any) -> BinaryIO:
        return super().open(ref)


class OpensTheFirstPart(Broken):
    def open(self, ref: Any, **_: Any) -> BinaryIO:
        return super().open(ref, length=8 * 1024 * 1024)


class OpensAsLatin1(Broken):
    def open(self, ref: Any, **arguments: Any) -> BinaryIO:
        return io.BytesIO(super().open(ref, **arguments).read().decode().encode("latin-1"))


# -- listing -----------------------------------------------------------------------------------------------------------


class ListsWhatIsNotThere(Broken):
    def list_objects(self, **arguments: Any) -> Iterator[ObjectStat]:
        yield from list(super().list_objects(**arguments)) or [ObjectStat(".", 0, datetime.now(UTC))]


class ListsNoSizes(Broken):
    def list_objects(self, **arguments: Any) -> Iterator[ObjectStat]:
        return (msgspec.structs.replace(each, size=-1) for each in super().list_objects(**arguments))


class ListsOnceAtATime(Broken):
    listing = False

    def list_objects(self, **arguments: Any) -> Iterator[ObjectStat]:
        if self.listing:
            raise BackendError("a listing is under way")
        self.listing = True
        yield from super().list_objects(**arguments)
        self.listing = False


class StartsAnywhereWithAPrefix(Broken):
    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        return super().list_objects(prefix=prefix, start_after=None if prefix else start_after)


class IteratesBelowThePrefix(Broken):
    def iter_locations(self, prefix: str | None = None) -> Iterator[str]:
        return (each.removeprefix(f"{prefix}/") for each in super().iter_locations(prefix))


class KnowsAsciiOnly(Broken):
    def _store(self, location: str, content: bytes) -> None:
        if not location.isascii():
            raise BackendError("not an ASCII key")
        super()._store(location, content)


# -- the rest ----------------------------------------------------------------------------------------------------------


class MovesInsteadOfCopying(Broken):
    def copy(self, source: str, target: str, **_: Any) -> None:
        super().copy(source, target)
        self.delete(source)


class IsCalledAnewEachTime(Broken):
    @property
    def identity(self) -> tuple[str, ...]:
        return ("broken", uuid4().hex)


class DiagnosesByWriting(Broken):
    def diagnose(self, **_: Any) -> Sequence[Finding]:
        MemoryStorageBackend.put_bytes(self, f"probe/{uuid4().hex}", b"")
        return ()


class NamesAnotherFile(Broken):
    capabilities = Broken.capabilities | {Capability.LOCAL_PATH}

    def local_path(self, location: str) -> Path | None:
        return Path(__file__)


class NamesAFileUnasked(NamesAnotherFile):
    capabilities = Broken.capabilities


class HasNoPublicAddress(Broken):
    capabilities = Broken.capabilities | {Capability.PUBLIC_ADDRESS}


class PresignsUnasked(Broken):
    def presign_get(self, location: str, **_: Any) -> str:
        return f"https://store.example/{location}"


class RemembersWhatWasDeleted(Broken):
    """Only where something was read, deleted and written anew: no single call shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, tuple[bytes, ObjectStat]] = {}

    def _find(self, location: str) -> tuple[bytes, ObjectStat]:
        return self.cache.setdefault(location, super()._find(location))


# -- several goes


class Resumer(ResumableWriter):
    """A go to break: passes everything on."""

    def __init__(self, backend: Resumed, location: str, said: dict[str, Any]) -> None:
        self.backend = backend
        self.location = location
        self.inner = MemoryStorageBackend.resume_writer(backend, location, **said)

    @property
    def offset(self) -> int:  # type: ignore[override]  # read only here
        return self.inner.offset

    @property
    def state(self) -> str | None:
        return self.inner.state

    def write(self, data: Any, /) -> None:
        self.inner.write(data)

    def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
        return self.inner.checkpoint(ends=ends, last=last)

    def commit(self) -> None:
        self.inner.commit()

    def close(self) -> None:
        self.inner.close()


class Resumed(Misread):
    resumer: type[Resumer] = Resumer

    def resume_writer(self, location: str, **said: Any) -> ResumableWriter:
        return self.resumer(self, location, said)


class ForgetsTheGoBefore(Resumed):
    def resume_writer(self, location: str, **said: Any) -> ResumableWriter:
        if said.get("offset"):
            content = self._unfinished[location].content
            content[: said["offset"]] = bytes(said["offset"])
        return super().resume_writer(location, **said)


class KeepsTheLastCheckpointOnly(Resumed):
    class resumer(Resumer):
        since = 0

        def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
            content = self.backend._unfinished[self.location].content
            content[: self.since] = bytes(self.since)
            self.since = len(content)
            return super().checkpoint(ends=ends, last=last)


class RepeatsWhatWasThereBefore(Resumed):
    class resumer(Resumer):
        checkpoints = 0

        def __init__(self, backend: Resumed, location: str, said: dict[str, Any]) -> None:
            super().__init__(backend, location, said)
            self.begun = self.inner.offset

        def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
            content = self.backend._unfinished[self.location].content
            self.checkpoints += 1
            if self.begun and self.checkpoints == 2:
                content[self.begun : 2 * self.begun] = content[: len(content[self.begun : 2 * self.begun])]
            return super().checkpoint(ends=ends, last=last)


class HasNoEmptyGoes(Resumed):
    class resumer(Resumer):
        def commit(self) -> None:
            if self.offset:
                super().commit()


class AppendsToWhatADeadGoWrote(Resumed):
    class resumer(Resumer):
        def __init__(self, backend: Resumed, location: str, said: dict[str, Any]) -> None:
            before = bytes(backend._unfinished[location].content) if location in backend._unfinished else b""
            super().__init__(backend, location, said)
            self.backend._unfinished[location].content[:] = before


class LetsASleeperWrite(Resumed):
    class resumer(Resumer):
        def write(self, data: Any, /) -> None:
            self.backend._unfinished[self.location].content.extend(bytes(data))
            self.inner.offset += len(data)


class WithdrawsWhatWasKept(Resumed):
    class resumer(Resumer):
        def withdraw(self, *, refused: bool = False) -> None:
            self.backend.discard_unfinished(self.location, None)


class WritesOnWhatWasDiscarded(Resumed):
    class resumer(Resumer):
        def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
            self.backend._unfinished[self.location] = self.inner._mine  # type: ignore[attr-defined]  # memory's
            return super().checkpoint(ends=ends, last=last)


class RemembersEachGo(Resumed):
    class resumer(Resumer):
        def __init__(self, backend: Resumed, location: str, said: dict[str, Any]) -> None:
            super().__init__(backend, location, said)
            self.before = said.get("state") or ""

        def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
            return self.before + "the name of a piece that this go has written, for the next; "


class CommitsOnceOnly(Resumed):
    class resumer(Resumer):
        def commit(self) -> None:
            if self.backend.exists(self.location):
                raise BackendError("the key is taken")
            super().commit()


class CommitsAtTheLastCheckpoint(Resumed):
    class resumer(Resumer):
        def checkpoint(self, *, ends: bool = False, last: bool = False) -> str:
            state = super().checkpoint(ends=ends, last=last)
            if last:
                self.inner.commit()
            return state


class TakesMoreOnceItIsClosed(Resumed):
    class resumer(Resumer):
        def close(self) -> None: ...


class DiscardsNothing(Resumed):
    def discard_unfinished(self, location: str, state: str | None) -> None: ...


class DiscardsTheObjectToo(Resumed):
    def discard_unfinished(self, location: str, state: str | None) -> None:
        super().discard_unfinished(location, state)
        self.delete(location)


class GoesOnWithNothing(Resumed):
    def resume_writer(self, location: str, **said: Any) -> ResumableWriter:
        offset = said.get("offset", 0)
        if location not in self._unfinished and offset:
            super().resume_writer(location).write(bytes(offset))
        return super().resume_writer(location, **said)


class ClearsWhatIsStillWritten(Resumed):
    def clear_unfinished(self, older_than: timedelta, *, keep: Any = ()) -> int:
        return super().clear_unfinished(older_than)


class ResumesUnasked(Misread):
    capabilities = Misread.capabilities - {Capability.RESUMABLE_WRITES}
