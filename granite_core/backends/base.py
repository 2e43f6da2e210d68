"""THE CONTRACT: what a storage backend promises, in prose an implementer can be held to.

A backend maps keys (``location``: validated, relative, slash-separated UTF-8 strings) to immutable byte strings. It
knows nothing of policies, hashes, limits, media types or rows: those are settled once, above it. It is called from
several threads at a time and MUST be safe for that; its calls may block.

An implementer writes five primitives (``open_writer``, ``open_reader``, ``stat``, ``delete``, ``list_objects``) and an
``identity``. Everything else on ``StorageBackend`` is derived from them, or is a capability declared in
``capabilities`` whose method is then overridden.

Keys of which a segment begins with ``.granite`` are Granite's own (``keys.RESERVED_PREFIX``): they can be written, read
and deleted as any other, and MUST NOT be listed.

Errors: an absent object is ``ObjectNotFoundError``; refused credentials or permissions ``AccessDeniedError``; a
backend that cannot be reached, is overloaded or timed out ``BackendUnavailableError``; anything else the store answers
``BackendError``. "Absent" MUST be told apart from "forbidden" and "unreachable": a collector trusts it. The library's
own exception is the ``__cause__``. No message or repr holds a credential.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

import msgspec

from granite_core.backends.requests import SignedRequest
from granite_core.backends.resumable import ResumableWriter
from granite_core.errors import ChecksumMismatchError, ConfigurationError, ObjectNotFoundError
from granite_core.findings import Finding
from granite_core.options import NO_OPTIONS, WriteOptions
from granite_core.refs import StoredObjectRef, timestamp

if TYPE_CHECKING:
    from typing import Any, Self

    from typing_extensions import Buffer

__all__ = [
    "NO_OPTIONS",
    "Capability",
    "ObjectReader",
    "ObjectStat",
    "ObjectWriter",
    "ReadableStream",
    "ResumableWriter",
    "SignedRequest",
    "StorageBackend",
    "WriteOptions",
    "location_of",
]

COPY_BYTES = 1024 * 1024

_executors = threading.Lock()


class Capability(Enum):
    """What a backend may offer beyond the five primitives. Declared as data, checked at start-up."""

    ATOMIC_CREATE = "atomic-create"
    """``commit`` of a second writer under a taken key fails with ``ObjectExistsError``, however close the race."""
    KEY_LISTING = "key-listing"
    """``list_keys`` looks at no object, and ``list_objects`` at each."""
    SERVER_SIDE_COPY = "server-side-copy"
    """``copy`` moves no bytes through this process."""
    BATCH_DELETE = "batch-delete"
    """``delete_many`` costs less than a ``delete`` for each."""
    LOCAL_PATH = "local-path"
    """``local_path`` names a file that holds exactly the object."""
    PRESIGNED_GET = "presigned-get"
    """``presign_get`` makes addresses under which the store itself gives the object, for a while."""
    PRESIGNED_PUT = "presigned-put"
    """``presign_put`` makes requests by which others store one object of a known length, for a while."""
    PRESIGNED_POST = "presigned-post"
    """``presign_post`` makes forms by which browsers store one object, of bounded length, for a while."""
    PRESIGNED_PARTS = "presigned-parts"
    """``presign_part`` makes requests by which others store an object in parts, which ``join_parts`` makes one."""
    PUBLIC_ADDRESS = "public-address"
    """``public_address`` is where everybody may have the object, from the store itself or a CDN before it."""
    RESUMABLE_WRITES = "resumable-writes"
    """``resume_writer`` goes on with an object that another process began; without it, pieces are joined at the end."""


class ReadableStream(Protocol):
    """Anything with ``read(n)`` that returns at most ``n`` bytes, and ``b""`` at the end."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; empty at the end."""
        ...


class ObjectStat(msgspec.Struct, frozen=True, eq=False, gc=False):  # made a million times in a listing
    """What a backend knows of an object without reading it. Equal without regard to the tag.

    Args:
        location: The key.
        size: Length in bytes; -1 in a listing of a store that does not tell it there (an adapted one).
        modified: When it was stored, by the store's clock, with time zone. Shown, never used to decide a deletion.
        etag: An opaque tag that changes with the content, where the store has one.
    """

    location: str
    size: int
    modified: datetime
    etag: str | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObjectStat):
            return NotImplemented
        return (self.location, self.size, self.modified) == (other.location, other.size, other.modified)

    def __hash__(self) -> int:
        return hash((self.location, self.size, self.modified))

    @property
    def known_size(self) -> int:
        """The length in bytes as far as it is told, to be summed up: 0 where it is not."""
        return max(0, self.size)


class ObjectWriter(ABC):
    """One object being written. Used by one thread at a time, though not always the same one.

    Nothing is visible under the key before ``commit`` is called; nothing remains, visible or not, after ``abort``. As
    a context manager it aborts unless it was committed.
    """

    @abstractmethod
    def write(self, data: Buffer, /) -> None:
        """Take the next bytes, all of them.

        The caller may reuse the buffer afterwards: an implementer MUST have copied or passed on what it keeps. Memory
        held MUST NOT grow with the size of the object.

        Raises:
            BackendError: They cannot be taken. The writer is then good for ``abort`` only.
        """

    @abstractmethod
    def commit(self) -> None:
        """Make the object visible, whole and durable under its key, atomically. Called at most once.

        Once it has returned, the object survives a crash of this process and machine (as far as the backend's
        durability setting says). When it raises, the object MUST NOT be visible, except where the answer of a remote
        store was lost and the truth could not be learned.

        Raises:
            ObjectExistsError: The key is taken (with ``Capability.ATOMIC_CREATE``); what is there stays untouched.
            BackendError: The object could not be completed.
        """

    @abstractmethod
    def abort(self) -> None:
        """Give up what was written. Idempotent; a no-op after a successful ``commit``; never raises."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


class ObjectReader(ABC):
    """One object, or a range of it, being read from front to back."""

    size: int
    """Length in bytes of the whole object, whatever range is read."""

    @abstractmethod
    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; ``b""`` only at the end of the range; all that is left for -1.

        A connection that breaks is resumed at the position, a bounded number of times, and only while the object is
        provably the same one.

        Raises:
            ObjectNotFoundError: The object has gone meanwhile.
            BackendError: The bytes cannot be had; nothing was returned in their place.
        """

    def readinto(self, buffer: memoryview, /) -> int:
        """Put the next bytes into a writable buffer and return how many; 0 only at the end of the range.

        Override it where they can be put there without a copy.

        Raises:
            ObjectNotFoundError: The object has gone meanwhile.
            BackendError: The bytes cannot be had; what the buffer holds then means nothing.
        """
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_at_hand(self, size: int, /) -> bytes | None:
        """Return up to ``size`` bytes as ``read`` does, if that takes no waiting; None where it might.

        It is called on event loops. Override it where it can be told.

        Raises:
            BackendError: The bytes cannot be had.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Free what is held. Idempotent, never raises. Never called while another thread's ``read`` is under way."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class StorageBackend(ABC):
    """Where bytes live."""

    capabilities: frozenset[Capability] = frozenset()
    """What is offered beyond the primitives; of the class, or of the instance where its arguments decide."""

    presign_limit: timedelta = timedelta(0)
    """How long an address of ``presign_get`` may be good; so of the requests of ``presign_put`` and its like."""

    put_limit: int = 5 * 1024**3
    """Bytes up to which one request of ``presign_put`` or ``presign_post`` stores an object."""

    max_workers: int = 16
    """How many threads of the asynchronous manager may be in this backend at a time."""

    backend_name: str = "custom"
    """The kind of backend, for refs that it makes itself. Refs of a manager name the backend's key there."""

    _executor: tuple[int, ThreadPoolExecutor] | None = None

    # -- the five primitives -------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def identity(self) -> tuple[str, ...]:
        """Where the bytes physically are, coarsest part first (``("file", "/", "var", "files")``).

        Two backends overlap when one's identity is a prefix of the other's; the collector refuses such a set-up.
        """

    @abstractmethod
    def open_writer(
        self,
        location: str,
        *,
        content_type: str | None = None,
        size: int | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ObjectWriter:
        """Return a writer for a key. No I/O happens yet.

        Args:
            location: The key. A key is never written twice by Granite.
            content_type: Media type, for stores that keep one.
            size: Length in bytes, where it is known for certain; a hint for part sizes.
            options: What the policy asks of the store beside that. A store heeds what it has, and passes over the rest.
        """

    @abstractmethod
    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object, or the range of it that starts at ``offset`` and is ``length`` bytes long.

        A range past the end is cut there; an offset at or past the end reads as empty. Only the range is transferred.
        The reader sees one version of the object throughout.

        Raises:
            ObjectNotFoundError: There is no such object. Raised here, not at the first ``read``.
            BackendError: It cannot be opened.
        """

    @abstractmethod
    def stat(self, location: str) -> ObjectStat:
        """Return size and times of an object.

        Raises:
            ObjectNotFoundError: There is no such object.
            BackendError: The store cannot be asked.
        """

    @abstractmethod
    def delete(self, location: str) -> None:
        """Delete an object. Idempotent: an absent one is no error. Readers that are open may finish or fail.

        Raises:
            BackendError: It may still be there.
        """

    @abstractmethod
    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        """Yield the committed objects whose key starts with ``prefix``, in the byte order of their UTF-8 keys.

        ``prefix`` is a plain string, not a folder: ``"doc"`` finds ``"docs/1"``. Memory stays flat for any number of
        objects on a remote store, and grows at most with the largest folder on a file system. An object that is
        committed or deleted while the listing runs may or may not be seen; every other one is seen exactly once.
        Temporary files of writers and reserved keys are not seen.

        Args:
            prefix: First characters of the keys wanted.
            start_after: Only keys greater than this one, so that a listing can be resumed.

        Raises:
            BackendError: The listing cannot go on. It MUST NOT end early in silence.
        """

    # -- capabilities --------------------------------------------------------------------------------------------------

    def list_keys(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[str]:
        """Yield the keys that ``list_objects`` lists, alike in every way (``Capability.KEY_LISTING``).

        A file system names its files by folders, and tells size and time only of each by itself. To override it pays
        there; where a listing tells them anyway it does not, and the capability MUST NOT be claimed: who wants a size
        would ask for it again.

        Args:
            prefix: As for ``list_objects``.
            start_after: As for ``list_objects``.

        Raises:
            BackendError: As for ``list_objects``.
        """
        return (each.location for each in self.list_objects(prefix=prefix, start_after=start_after))

    def copy(self, source: str, target: str, *, options: WriteOptions = NO_OPTIONS) -> None:
        """Copy an object to a new key. Without ``Capability.SERVER_SIDE_COPY`` the bytes pass through here.

        What is kept with the object goes with it, unless ``options.content_type`` is given: then the original was
        described by somebody who is not to be believed, and the copy MUST be of that type, with nothing else of it.

        Raises:
            ObjectNotFoundError: There is no object under ``source``.
            BackendError: The copy failed; nothing is visible under ``target``.
        """
        with (
            self.open_reader(source) as reader,
            self.open_writer(target, content_type=options.content_type, size=reader.size, options=options) as writer,
        ):
            while data := reader.read(COPY_BYTES):
                writer.write(data)
            writer.commit()

    def delete_many(self, locations: Collection[str]) -> Mapping[str, Exception]:
        """Delete objects, absent ones among them. Without ``Capability.BATCH_DELETE`` they go one after another.

        One that cannot be deleted MUST NOT keep the others, and nothing may be taken for deleted that the store did not
        say to be. Blocks as long as the store takes for all of them.

        Args:
            locations: The keys, each once, any number of them.

        Returns:
            Those that may still be there, and why: what ``delete`` would raise. Empty when all are gone.
        """
        failed: dict[str, Exception] = {}
        for location in locations:
            try:
                self.delete(location)
            except Exception as error:  # noqa: BLE001 - whatever one delete raises, the others go on
                failed[location] = error
        return failed

    def local_path(self, location: str) -> Path | None:
        """Return the file that holds exactly this object (``Capability.LOCAL_PATH``), or None.

        Raises:
            ObjectNotFoundError: There is no such object, where the backend looks.
        """
        return None

    def presign_get(
        self,
        location: str,
        *,
        starts: datetime,
        expires_in: timedelta,
        method: Literal["GET", "HEAD"] = "GET",
        content_type: str | None = None,
        content_disposition: str | None = None,
        cache_control: str | None = None,
    ) -> str:
        """Return an address under which whoever has it may read the object (``Capability.PRESIGNED_GET``).

        The same arguments MUST give the same address, as long as the store's credentials are the same: caches keep
        answers by it. Nothing of it can be changed without making it worthless. No request is made, beyond what
        renewing credentials takes; whether the object exists is not looked at.

        Args:
            location: The key.
            starts: When the address begins to be good; not in the future.
            expires_in: For how long, in whole seconds; at most ``presign_limit``.
            method: The only one the address is good for.
            content_type: ``Content-Type`` of the answer.
            content_disposition: ``Content-Disposition`` of the answer.
            cache_control: ``Cache-Control`` of the answer. Its ``Expires`` MUST be the end of the address, so that
                copies may be used until then where this says nothing of ages.

        Raises:
            ConfigurationError: The capability is not claimed.
            AccessDeniedError: There are no credentials to sign with.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot make addresses for others to read from")

    def presign_put(
        self,
        location: str,
        *,
        starts: datetime,
        expires_in: timedelta,
        size: int,
        content_type: str | None = None,
        checksum: str | None = None,
    ) -> SignedRequest:
        """Return a request by which whoever has it may store an object (``Capability.PRESIGNED_PUT``).

        It may be sent again until it expires, and then overwrites: the key is one that no row will name. The store MUST
        refuse another length. No request is made here, beyond what renewing credentials takes.

        Args:
            location: The key.
            starts: When the request begins to be good; not in the future.
            expires_in: For how long, in whole seconds; at most ``presign_limit``.
            size: Length in bytes of what is to come, at most ``put_limit``.
            content_type: Media type to be kept with the object.
            checksum: ``"sha256:…"`` of what is to come, which a store that can MUST hold it against. Some pass it over.

        Raises:
            ConfigurationError: The capability is not claimed.
            AccessDeniedError: There are no credentials to sign with.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot have others write to it")

    def presign_post(
        self,
        location: str,
        *,
        starts: datetime,
        expires_in: timedelta,
        max_size: int,
        min_size: int = 0,
        content_type: str | None = None,
        checksum: str | None = None,
        redirect: str | None = None,
    ) -> SignedRequest:
        """Return a form by which whoever has it may store an object (``Capability.PRESIGNED_POST``).

        All that ``presign_put`` says holds of it.

        Args:
            location: The key.
            starts: When the form begins to be good; not in the future.
            expires_in: For how long, in whole seconds; at most ``presign_limit``.
            max_size: Largest length in bytes; at most ``put_limit``.
            min_size: Smallest length in bytes.
            content_type: Media type to be kept with the object.
            checksum: ``"sha256:…"`` of what is to come; see ``presign_put``.
            redirect: Where the store sends the browser when the object is there; without it, it answers 204.

        Raises:
            ConfigurationError: The capability is not claimed.
            AccessDeniedError: There are no credentials to sign with.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot have forms sent to it")

    def begin_parts(self, location: str, *, content_type: str | None = None) -> str:
        """Begin an object that others store in parts, and return its name among those (``Capability.PRESIGNED_PARTS``).

        Nothing is visible under the key before ``join_parts``.

        Raises:
            ConfigurationError: The capability is not claimed.
            BackendError: It cannot be begun.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot have others write parts to it")

    def presign_part(
        self, location: str, upload: str, number: int, *, starts: datetime, expires_in: timedelta, size: int
    ) -> SignedRequest:
        """Return a request by which whoever has it may store a part; see ``presign_put``.

        Args:
            location: The key.
            upload: What ``begin_parts`` returned.
            number: Which part, from 1.
            starts: When the request begins to be good.
            expires_in: For how long, in whole seconds.
            size: Length in bytes of the part.

        Raises:
            ConfigurationError: The capability is not claimed.
            AccessDeniedError: There are no credentials to sign with.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot have others write parts to it")

    def list_parts(self, location: str, upload: str) -> Mapping[int, int]:
        """Return the lengths in bytes of the parts that have come, by number. Blocks.

        Raises:
            ConfigurationError: The capability is not claimed.
            ObjectNotFoundError: There is no such upload, or not any more.
            BackendError: The store cannot be asked.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot have others write parts to it")

    def join_parts(self, location: str, upload: str) -> None:
        """Make one object of the parts that have come, in the order of their numbers.

        Raises:
            ConfigurationError: The capability is not claimed.
            ObjectNotFoundError: There is no such upload, or not any more.
            BackendError: They cannot be joined.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot have others write parts to it")

    def discard_parts(self, location: str, upload: str | None = None) -> None:
        """Remove the parts that were stored for a key and not joined. Idempotent; an object that is there stays.

        Args:
            location: The key.
            upload: The upload that is known of, for a store that does not let us look for others; these go, too.

        Raises:
            ConfigurationError: The capability is not claimed.
            BackendError: Something may still be there.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot have others write parts to it")

    def public_address(self, location: str) -> str | None:
        """Return where everybody may have the object (``Capability.PUBLIC_ADDRESS``), or None. No I/O."""
        return None

    def resume_writer(
        self,
        location: str,
        *,
        offset: int = 0,
        state: str | None = None,
        content_type: str | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ResumableWriter:
        """Go on with an object that is written in several goes (``Capability.RESUMABLE_WRITES``), or begin it.

        Nothing is visible under the key before ``commit``. What writers of ``open_writer`` do is not disturbed.

        Args:
            location: The key. A key is never written twice by Granite.
            offset: How many bytes the kept state stands for.
            state: What the last checkpoint that was kept returned; None to begin.
            content_type: Media type, for stores that keep one; None where it is not known yet, for lack of bytes: then
                fewer come in this go than a media type is told by.
            options: What the policy asks of the store.

        Raises:
            ConfigurationError: The capability is not claimed.
            UnfinishableError: What the state names is gone: the object must begin anew, under another key.
            BackendError: It cannot be gone on with now.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot go on with what another process began to write")

    def discard_unfinished(self, location: str, state: str | None) -> None:
        """Remove what the goes at an object left behind that will not be finished (``Capability.RESUMABLE_WRITES``).

        Idempotent. An object that was committed under the key already is not touched.

        Args:
            location: The key.
            state: What was kept last; None where nothing ever was.

        Raises:
            ConfigurationError: The capability is not claimed.
            BackendError: Something may still be there.
        """
        raise ConfigurationError(f"{type(self).__name__} has nothing that another process began to write")

    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        """Remove what writers that died left behind, if it was last touched longer ago than ``older_than``.

        Args:
            older_than: How long ago at least.
            keep: Keys that are being written in several goes, or by clients: what belongs to them stays. Given only to
                a backend with ``Capability.RESUMABLE_WRITES`` or ``Capability.PRESIGNED_PUT``.

        Returns:
            How many leftovers were removed.
        """
        return 0

    def check(self) -> None:  # noqa: B027 - most backends have nothing to find out
        """Find out whether the store keeps what this backend claims; meant for the start of an application.

        Raises:
            ConfigurationError: It does not; the message says what to change.
            BackendUnavailableError: The store cannot be asked.
        """

    def diagnose(self, *, origins: Collection[str] = (), receives: bool = False) -> Sequence[Finding]:
        """Say what only this backend can know of how it is set up: what is wrong, what is missing, what is fine.

        That objects can be written, read, listed and deleted, and how the store's clock goes, is tried by the doctor,
        for every backend alike. Changes nothing. MUST NOT raise for what the store refuses to tell: that is a finding.
        The commands in an advice are complete: they can be copied into a shell.

        Args:
            origins: Where pages come from whose scripts talk to the store directly; a store that has rules for that
                (CORS) judges them by these.
            receives: Whether they send files, too. Told only to a backend with ``Capability.PRESIGNED_PUT``.
        """
        return ()

    def close(self) -> None:
        """Free pools and clients. The backend may be used again afterwards and then makes new ones."""
        executor, self._executor = self._executor, None
        if executor is not None and executor[0] == os.getpid():
            executor[1].shutdown(wait=False)

    def executor(self) -> ThreadPoolExecutor:
        """Return the pool of ``max_workers`` threads in which asynchronous callers use this backend.

        Made at first use, and anew after a fork: threads do not survive one, and a pool that lost its own hangs.
        """
        current = self._executor
        if current is None or current[0] != os.getpid():
            with _executors:
                current = self._executor
                if current is None or current[0] != os.getpid():
                    pool = ThreadPoolExecutor(self.max_workers, thread_name_prefix=f"granite-{type(self).__name__}")
                    self._executor = current = (os.getpid(), pool)
        return current[1]

    # -- the seven methods of granite-storage, derived -----------------------------------------------------------------

    def put_bytes(
        self,
        key: str,
        content: bytes,
        *,
        content_type: str | None = None,
        original_filename: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> StoredObjectRef:
        """Store bytes under a key and return their ref; it names no policy, and the kind of this backend.

        Raises:
            ObjectExistsError: The key is taken (with ``Capability.ATOMIC_CREATE``).
            BackendError: They cannot be stored; nothing remains.
        """
        return self.put_stream(
            key,
            io.BytesIO(content),
            size=len(content),
            content_type=content_type,
            original_filename=original_filename,
            extra=extra,
        )

    def put_stream(
        self,
        key: str,
        stream: ReadableStream,
        *,
        size: int | None = None,
        checksum: str | None = None,
        content_type: str | None = None,
        original_filename: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> StoredObjectRef:
        """Store a stream under a key, from where it stands to its end, and return its ref; see ``put_bytes``.

        The stream is not closed and need not be seekable. An announced size (bytes) or checksum is checked.

        Raises:
            ChecksumMismatchError: Size or checksum are not the announced ones; nothing remains.
            ObjectExistsError: The key is taken (with ``Capability.ATOMIC_CREATE``).
            BackendError: It cannot be stored; nothing remains.
        """
        digest, length = hashlib.sha256(), 0
        with self.open_writer(key, content_type=content_type, size=size) as writer:
            while data := stream.read(COPY_BYTES):
                writer.write(data)
                digest.update(data)
                length += len(data)
            found = f"sha256:{digest.hexdigest()}"
            if (size is not None and size != length) or (checksum is not None and checksum.lower() != found):
                raise ChecksumMismatchError(
                    f"{length} bytes with {found} came, {size} with {checksum} were announced",
                    operation="put",
                    limit=checksum if size == length else size,
                    value=found if size == length else length,
                )
            created_at = timestamp(datetime.now(UTC))
            writer.commit()
        return StoredObjectRef(
            "", self.backend_name, key, length, found, content_type, original_filename, created_at, extra
        )

    def get(self, ref: str | StoredObjectRef) -> bytes:
        """Return a whole object, by its key or ref; meant for small ones.

        Raises:
            ObjectNotFoundError: There is no such object.
        """
        with self.open_reader(location_of(ref)) as reader:
            return reader.read(-1)

    def open(self, ref: str | StoredObjectRef, *, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Open an object, or a range of it, as a seekable binary file.

        Raises:
            ObjectNotFoundError: There is no such object.
        """
        return io.BufferedReader(_RawObject(self, location_of(ref), offset, length), 256 * 1024)

    def exists(self, ref: str | StoredObjectRef) -> bool:
        """Tell whether there is such an object.

        Raises:
            BackendError: The store cannot be asked; that is not the same as "no".
        """
        with suppress(ObjectNotFoundError):
            self.stat(location_of(ref))
            return True
        return False

    def iter_locations(self, prefix: str | None = None) -> Iterator[str]:
        """Yield the keys that start with ``prefix``, in byte order."""
        return self.list_keys(prefix=prefix or "")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def location_of(ref: str | StoredObjectRef) -> str:
    """Return the key of an object that is named by its key or ref."""
    return ref.location if isinstance(ref, StoredObjectRef) else ref


class _RawObject(io.RawIOBase):
    """A seekable view over ``open_reader``: reading on is one stream, a seek opens the next one lazily."""

    _reader: ObjectReader | None = None  # also for an object whose making failed: it is closed when it is collected

    def __init__(self, backend: StorageBackend, location: str, offset: int, length: int | None) -> None:
        super().__init__()
        self._backend = backend
        self._location = location
        self._start = offset
        self._reader = backend.open_reader(location, offset=offset, length=length)
        left = max(0, self._reader.size - offset)
        self._length = left if length is None else min(left, length)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError("a position must not be negative")
        if base + offset != self._position:
            self._drop()
            self._position = base + offset
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._length or not len(view):
            return 0
        if self._reader is None:
            self._reader = self._backend.open_reader(
                self._location, offset=self._start + self._position, length=self._length - self._position
            )
        count = self._reader.readinto(view)
        self._position += count
        return count

    def _drop(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()
