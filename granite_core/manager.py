"""What an application holds: the only caller of backends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, TypedDict, Unpack

from granite_core._aftermath import Aftermath
from granite_core._pending import ask_before
from granite_core._pool import ThreadPool
from granite_core.addresses import Addresses
from granite_core.backends.adapter import SevenMethodBackend, adapted
from granite_core.backends.base import Capability, ObjectStat, ReadableStream, StorageBackend
from granite_core.claims import Quotas
from granite_core.errors import ConfigurationError, ContentRejectedError, ObjectNotFoundError, StorageError
from granite_core.events import Event, EventHub, Listener, ObjectName
from granite_core.events import object_id as name_object
from granite_core.hooks import Announcement, Committed
from granite_core.keys import is_granite_storage_key, suffix_of, unique_part
from granite_core.limited import SizeLimitedStream
from granite_core.links import Links
from granite_core.logs import LogWriter
from granite_core.media import clean_content_type, clean_filename
from granite_core.policies import StoragePolicy
from granite_core.progress import Meter, ProgressCallback
from granite_core.quotas import QuotaLedger
from granite_core.refs import Reservation, StagedFile, StoredObjectRef
from granite_core.remote import FetchRules, RemoteFile
from granite_core.sources import Source, SourceInput, bytes_left
from granite_core.staging import StagedWrite
from granite_core.urls import UrlSettings
from granite_core.verifying import VerifyingReader, check_size, open_verified, verify_object

if TYPE_CHECKING:
    from pathlib import Path

    from granite_core._open_source import OpenSource

__all__ = ["MANAGER_KEY", "PutOptions", "SizeLimitedStream", "StorageManager"]

FETCHES: Final = 16
"""How many files asynchronous callers fetch from other servers at the same time; further ones wait."""

MANAGER_KEY: Final = "granite_manager"
"""Where ``register`` leaves the manager in a metadata's ``info``."""


class PutOptions(TypedDict, total=False):
    """What ``put`` and ``put_url`` may be told beside the content.

    Attributes:
        original_filename: Name to keep; where absent, the one that path, upload or other server gives.
        content_type: Media type to believe where the bytes do not show one; where absent, what is claimed there.
        field: Name for errors; the ``storage_key`` where absent.
        checksum: Announced ``"sha256:…"``, checked.
        model_name: Name of the model, where known: a part of the key.
        entity_id: Primary key of the row, where known: as text a part of the key.
        field_name: Name of the field, where known: a part of the key.
        extra: Metadata of the caller's own, JSON-compatible, for the ref.
        context: Values for the names in the policy's ``key_template``.
        progress: Is told how far it is.
    """

    original_filename: str | None
    content_type: str | None
    field: str | None
    checksum: str | None
    model_name: str | None
    entity_id: object
    field_name: str | None
    extra: Mapping[str, Any] | None
    context: Mapping[str, str] | None
    progress: ProgressCallback | None


def _utc_now() -> datetime:
    return datetime.now(UTC)


class StorageManager(Addresses):
    """Stores, opens and deletes objects by the rules of named policies.

    Safe to share between threads. It holds no connection of its own and is made once, by the application.

    Args:
        backends: The backends by their ``backend_key``, which refs keep: name them by role, and do not rename them.
            One with granite-storage's seven methods is put behind an adapter.
        policies: The policies, as a list or as a mapping from their ``storage_key``.
        default_backend: The backend of policies that name none; the first one where absent. Changing it sends new
            objects elsewhere, and leaves the old ones where they are.
        grace: How long what is let go stays; a ref must be committed within a quarter of it from being staged.
        urls: How ``url`` makes links; without secrets only the store's own addresses can be given.
        now: The clock, for tests; returns an aware datetime.
        listeners: Who hears of every event; see ``listen``.
        fetch: What ``put_url`` and ``from_url`` may fetch from other servers.

    Raises:
        ConfigurationError: A policy names a backend that is not there, or is filed under another name.
        MissingExtraError: ``urls`` has secrets, and the extra ``urls`` is not installed.
    """

    def __init__(
        self,
        backends: Mapping[str, StorageBackend | SevenMethodBackend],
        policies: Mapping[str, StoragePolicy] | Iterable[StoragePolicy],
        *,
        default_backend: str | None = None,
        grace: timedelta = timedelta(hours=2),
        urls: UrlSettings | None = None,
        now: Callable[[], datetime] = _utc_now,
        listeners: Iterable[Listener] = (),
        fetch: FetchRules | None = None,
    ) -> None:
        super().__init__(Links(urls or UrlSettings()), now)
        if grace <= timedelta(0):
            raise ConfigurationError("grace must be longer than nothing", value=grace)
        self._backends = {key: adapted(key, each) for key, each in backends.items()}
        self.default_backend: Final = default_backend or next(iter(self._backends), "")
        self._policies = {
            key: policy if policy.backend_key else replace(policy, backend_key=self.default_backend)
            for key, policy in _by_key(policies).items()
        }
        self.grace: Final = grace
        self.attach_within: Final = grace / 4
        """How old a staged ref may be when its row is committed: a quarter of the grace."""
        self.events: Final = EventHub(listeners, log=LogWriter())
        self._aftermath: Final = Aftermath()
        self.fetch_rules: Final = fetch or FetchRules()
        self.fetching: Final = ThreadPool(FETCHES, "granite-fetch")
        """The threads in which asynchronous callers wait for other servers: none of a backend's."""
        self._notes: deque[StoredObjectRef] = deque(maxlen=10_000)
        self._quotas: Quotas | None = None
        if default_backend is not None:
            self.get_backend(default_backend)
        for policy in self._policies.values():
            if policy.backend_key not in self._backends:
                raise ConfigurationError(
                    f"policy {policy.storage_key!r} names the backend {policy.backend_key!r}; "
                    f"there are {', '.join(map(repr, self._backends)) or 'none'}",
                    value=policy.backend_key,
                )

    # -- what is configured --------------------------------------------------------------------------------------------

    @property
    def backends(self) -> Mapping[str, StorageBackend]:
        """The backends by their key."""
        return dict(self._backends)

    @property
    def policies(self) -> Mapping[str, StoragePolicy]:
        """The policies by their storage key."""
        return dict(self._policies)

    def get_policy(self, storage_key: str) -> StoragePolicy:
        """Return a policy.

        Raises:
            ConfigurationError: There is none of that name.
        """
        try:
            return self._policies[storage_key]
        except KeyError:
            raise ConfigurationError(
                f"no policy {storage_key!r}; there are {', '.join(map(repr, self._policies)) or 'none'}",
                value=storage_key,
            ) from None

    def get_backend(self, backend_key: str) -> StorageBackend:
        """Return a backend.

        Raises:
            ConfigurationError: There is none of that name.
        """
        try:
            return self._backends[backend_key]
        except KeyError:
            raise ConfigurationError(
                f"no backend {backend_key!r}; there are {', '.join(map(repr, self._backends)) or 'none'}",
                value=backend_key,
            ) from None

    def get_backend_for_policy(self, policy: str | StoragePolicy) -> StorageBackend:
        """Return the backend that new objects of a policy, or of that name, go to.

        Raises:
            ConfigurationError: There is no such policy, or no such backend.
        """
        return self.get_backend((self.get_policy(policy) if isinstance(policy, str) else policy).backend_key)

    def backend_key_of(self, backend: str, storage_key: str, location: str) -> str:
        """Return the key of the backend that holds an object, given what its ref says.

        That is what the ref names, but for refs that granite-storage wrote: they name the kind of backend (``local``,
        ``s3``), whatever its key, and the object is in the backend of their policy. Where that is of another kind by
        now, and a backend has the name for its key, the object is there.
        """
        policy = self._policies.get(storage_key)
        if policy is None or policy.backend_key == backend or not is_granite_storage_key(location):
            return backend
        if backend in self._backends and self._backends[policy.backend_key].backend_name != backend:
            return backend
        return policy.backend_key

    def backend_of(self, ref: StoredObjectRef) -> StorageBackend:
        """Return the backend that holds an object.

        Raises:
            ConfigurationError: The ref names a backend and a policy that are not there.
            ObjectNotFoundError: The ref names no object; see its ``inline_text``.
        """
        if not ref.location:
            raise ObjectNotFoundError("the row holds a text, and no stored object", operation="open")
        return self.get_backend(self.backend_key_of(ref.backend, ref.storage_key, ref.location))

    def policy_of(self, ref: StoredObjectRef) -> StoragePolicy:
        """Return the policy of a ref; where the application dropped it, one that offers its files for download."""
        found = self._policies.get(ref.storage_key)
        return found or StoragePolicy(ref.storage_key or "unknown", ref.backend, disposition="attachment")

    def register(self, *bases: Any) -> None:
        """Bind this manager to declarative bases (or ``MetaData``): the file fields of their models use it.

        Binding again replaces the former manager, as a test may want.

        Raises:
            ConfigurationError: A base has no metadata.
        """
        for base in bases:
            metadata = getattr(base, "metadata", base)
            info = getattr(metadata, "info", None)
            if not isinstance(info, dict):
                raise ConfigurationError(f"register() takes declarative bases or MetaData, not {base!r}")
            info[MANAGER_KEY] = self

    @property
    def has_quotas(self) -> bool:
        """Whether a policy has quotas."""
        return any(policy.quotas for policy in self._policies.values())

    @property
    def quotas(self) -> Quotas:
        """What scopes have stored.

        Raises:
            ConfigurationError: There is no database to count in.
        """
        if self._quotas is None:
            raise ConfigurationError(
                "quotas are counted in a database: call manager.count_in(SQLAlchemyQuotaLedger(engine, metadata)), as "
                "GranitePlugin does when the application starts"
            )
        return self._quotas

    def count_in(self, ledger: QuotaLedger) -> None:
        """Count what policies with quotas store, in a database. Counting in another one replaces it, as in a test.

        Args:
            ledger: ``SQLAlchemyQuotaLedger(engine, Base.metadata)``.
        """
        self._quotas = Quotas(ledger)

    @contextmanager
    def override(self, **backends: StorageBackend | SevenMethodBackend) -> Iterator[None]:
        """Use other backends for the length of a block: ``with manager.override(main=MemoryStorageBackend()):``.

        For tests; it changes the manager for every thread.

        Raises:
            ConfigurationError: A name is not one of this manager's backends.
        """
        for key in backends:
            self.get_backend(key)
        before = self._backends
        self._backends = {**before, **{key: adapted(key, each) for key, each in backends.items()}}
        try:
            yield
        finally:
            self._backends = before

    # -- what happens --------------------------------------------------------------------------------------------------

    def listen(self, listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Call a function for each event from now on.

        It is called where the event happens, in whatever thread, which may be that of an event loop: it must be quick,
        and hands longer work to a queue. An exception of its own is logged and goes no further.

        Args:
            listener: Is given the event.
            kinds: The events it wants, ``Stored, Deleted`` for instance; all of them where absent.

        Returns:
            What ends it again.
        """
        return self.events.listen(listener, *kinds)

    def name_of(self, ref: StoredObjectRef) -> ObjectName:
        """Return the fields that name an object in events: its id, its policy, and the key of its backend."""
        backend_key = self.backend_key_of(ref.backend, ref.storage_key, ref.location)
        return ObjectName(object_id=name_object(ref.location), storage_key=ref.storage_key, backend_key=backend_key)

    def has_hooks_after_commit(self, storage_key: str | None = None) -> bool:
        """Tell whether a policy, or any where none is named, has hooks that want to know of files in committed rows."""
        if storage_key is None:
            return any(policy.after_commit for policy in self._policies.values())
        policy = self._policies.get(storage_key)
        return policy is not None and bool(policy.after_commit)

    def tell_committed(self, committed: Committed) -> None:
        """Call the hooks of a file's policy, in the background, after the COMMIT that put it into a row. Never raises.

        The integration with SQLAlchemy does this; it is for integrations of one's own.
        """
        policy = self._policies.get(committed.ref.storage_key)
        if policy is not None and policy.after_commit:
            self._aftermath.begin(policy.after_commit, committed)

    def wait_for_hooks(self, at_most: timedelta | None = None) -> bool:
        """Wait for the hooks that are under way after commits: in tests, and where a process ends. Blocks.

        Args:
            at_most: How long; None for as long as it takes.

        Returns:
            Whether all have ended.
        """
        return self._aftermath.wait(at_most)

    def find_object(self, object_id: str) -> tuple[str, str] | None:
        """Return backend key and location of the object that an event or a log line names; None where there is none.

        For operators: it lists the backends until the object is found. To ask the rows, which also know of objects that
        are gone, use ``SQLAlchemyLedger.holders_by_id``, or ``litestar granite find``.

        Raises:
            BackendError: A backend cannot be listed.
        """
        for key, backend in self.backends.items():
            for location in backend.iter_locations():
                if name_object(location) == object_id:
                    return key, location
        return None

    # -- storing -------------------------------------------------------------------------------------------------------

    def stage(
        self,
        storage_key: str,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        field: str | None = None,
        expected_size: int | None = None,
        checksum: str | None = None,
        model_name: str | None = None,
        entity_id: object = None,
        field_name: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> StagedWrite:
        """Begin to store an object piece by piece. No I/O happens yet.

        Args:
            storage_key: The policy whose rules apply.
            filename: Name the content came with; it is cleaned.
            content_type: Media type the sender claims; believed only where the bytes do not tell.
            field: Name for errors; the ``storage_key`` where absent.
            expected_size: Announced length in bytes, checked.
            checksum: Announced ``"sha256:…"``, checked.
            model_name: Name of the model, where known: a part of the key.
            entity_id: Primary key of the row, where known: as text a part of the key.
            field_name: Name of the field, where known: a part of the key.
            extra: Metadata of the caller's own, JSON-compatible, for the ref.
            context: Values for the names in the policy's ``key_template``: ``{"tenant": "acme"}``.

        Raises:
            ConfigurationError: There is no such policy, or a name in its ``key_template`` has no value.
            ContentTooLargeError: The announced length is over the limit.
            InvalidKeyError: A part of the key is no safe one.
            TypeError: ``extra`` is not JSON-compatible.
        """
        policy = self.get_policy(storage_key)
        if expected_size is not None:
            try:
                policy.check_size(expected_size, field=field)
            except ContentRejectedError as error:
                self.events.refused(error, storage_key)
                raise
        name = clean_filename(filename)
        location = policy.new_key(
            unique_part(),
            suffix=suffix_of(name),
            context=context,
            model_name=model_name,
            entity_id=None if entity_id is None else str(entity_id),
            field_name=field_name,
        )
        return StagedWrite(
            policy,
            self.get_backend(policy.backend_key),
            location,
            now=self.now,
            discard=self._let_go,
            events=self.events,
            filename=name,
            claimed_type=clean_content_type(content_type),
            field=field,
            expected_size=expected_size,
            checksum=checksum,
            extra=extra,
            context=context,
            quotas=self.quotas if policy.quotas else None,
            attach_within=self.attach_within,
        )

    def ask_before(self, announced: Announcement) -> None:
        """Have the hooks of its policy decide whether an upload may begin; for what stores past this manager's verbs.

        Raises:
            ContentRejectedError: A hook refuses it.
            ConfigurationError: There is no such policy; or a hook is asynchronous, and this thread runs an event loop.
        """
        with self.telling_of_refusals(announced.storage_key, announced.field):
            ask_before(self.get_policy(announced.storage_key), announced)

    def put_bytes(
        self,
        storage_key: str,
        model_name: str | None = None,
        entity_id: object = None,
        field_name: str | None = None,
        *,
        content: bytes | bytearray | memoryview,
        content_type: str | None = None,
        original_filename: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> StagedFile:
        """Store bytes and return their ref.

        Args: as for ``stage``; ``content`` is what to store, ``original_filename`` the name it came with.

        Raises:
            ContentRejectedError: The policy, or one of its validators, refuses it.
            BackendError: It cannot be stored; nothing remains.
        """
        with self.stage(
            storage_key,
            filename=original_filename,
            content_type=content_type,
            expected_size=memoryview(content).nbytes,
            model_name=model_name,
            entity_id=entity_id,
            field_name=field_name,
            extra=extra,
            context=context,
        ) as write:
            write.write(content)
            return write.commit()

    def put_stream(
        self,
        storage_key: str,
        model_name: str | None = None,
        entity_id: object = None,
        field_name: str | None = None,
        *,
        stream: ReadableStream,
        content_type: str | None = None,
        original_filename: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> StagedFile:
        """Store a stream, from where it stands to its end, and return its ref.

        The stream is never closed and need not be seekable; no more than a buffer of it is held.

        Args: as for ``stage``; ``stream`` is what to store, ``original_filename`` the name it came with, ``progress``
        is told how far it is.

        Raises:
            ContentRejectedError: The policy refuses it; reading stops as soon as that is known.
            BackendError: It cannot be stored; nothing remains.
        """
        meter = Meter(progress, bytes_left(stream) if progress else None)
        meter.refuse_async()
        with self.stage(
            storage_key,
            filename=original_filename,
            content_type=content_type,
            model_name=model_name,
            entity_id=entity_id,
            field_name=field_name,
            extra=extra,
            context=context,
        ) as write:
            return _filled(write, stream, meter)

    def put(self, storage_key: str, content: SourceInput, **options: Unpack[PutOptions]) -> StagedFile:
        """Store anything that can be stored, and return its ref.

        Args:
            storage_key: The policy whose rules apply.
            content: Bytes; a path; a binary stream, read from its beginning where it can be rewound and never closed;
                an iterable of bytes, an iterator being closed; an upload; ``from_data_uri(…)``; ``from_url(…)``.
            options: See ``PutOptions``.

        Raises:
            ContentRejectedError: The policy, or one of its validators, refuses it; or it cannot be had from where it
                is (``RemoteError``, ``InvalidSourceError``).
            ChecksumMismatchError: It is not of the announced size or checksum.
            ContentUnavailableError: It was read before, or changes while it is read.
            BackendError: It cannot be stored; nothing remains.
            OSError: The path cannot be opened.
            TypeError: It is of no storable kind.
        """
        return self.put_source(storage_key, Source(content), options)

    def put_source(self, storage_key: str, source: Source, options: PutOptions) -> StagedFile:
        """Store a source; see ``put``."""
        with self.telling_of_refusals(storage_key, options.get("field")), source.open(self.fetch_rules) as opened:
            meter = Meter(options.get("progress"), opened.size)
            meter.refuse_async()
            with self.stage_opened(storage_key, opened, options) as write:
                return _filled(write, opened.stream, meter)

    def put_url(
        self, storage_key: str, url: str, *, rules: FetchRules | None = None, **options: Unpack[PutOptions]
    ) -> StagedFile:
        """Fetch a file from another server, store it while it comes, and return its ref.

        The URL may be a stranger's: what may be fetched, and for how long, is what ``FetchRules`` say. The name comes
        from ``Content-Disposition``, else from the URL; the type is what the bytes show, as ever.

        Args:
            storage_key: The policy whose rules apply.
            url: ``https://…`` or ``http://…``.
            rules: In place of the manager's ``fetch``.
            options: See ``PutOptions``.

        Raises:
            RemoteRefusedError: The address, or one that it led to, may not be fetched.
            RemoteUnavailableError: The other server does not give the file, whole and in time.
            StorageError: As ``put``; nothing remains.
        """
        return self.put(storage_key, RemoteFile(url, rules), **options)

    def stage_opened(self, storage_key: str, opened: OpenSource, options: PutOptions) -> StagedWrite:
        """Begin to store an open source; what it says of itself is taken where the caller does not say otherwise."""
        return self.stage(
            storage_key,
            filename=options.get("original_filename") or opened.filename,
            content_type=options.get("content_type") or opened.content_type,
            expected_size=opened.announced,
            field=options.get("field"),
            checksum=options.get("checksum"),
            model_name=options.get("model_name"),
            entity_id=options.get("entity_id"),
            field_name=options.get("field_name"),
            extra=options.get("extra"),
            context=options.get("context"),
        )

    @contextmanager
    def telling_of_refusals(self, storage_key: str, field: str | None) -> Iterator[None]:
        """Tell of content that is refused before a write has begun, and name the field that it was for."""
        try:
            yield
        except ContentRejectedError as error:
            error.field = error.field or field or storage_key
            self.events.refused(error, storage_key)
            raise

    def copy(
        self,
        ref: StoredObjectRef,
        storage_key: str | None = None,
        *,
        context: Mapping[str, str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> StagedFile:
        """Store the same content again under a new key, by the store itself where it can.

        Args:
            ref: What to copy.
            storage_key: Policy of the copy; that of ``ref`` where absent.
            context: Values for the names in the policy's ``key_template``.
            progress: Is told how far it is; of a copy that the store makes by itself, at its beginning and end.

        Raises:
            ObjectNotFoundError: The object is gone.
            ContentRejectedError: The target policy, or one of its validators, refuses it.
            ChecksumMismatchError: What was read is not what the ref says.
            BackendError: The copy failed; nothing remains.
        """
        meter = Meter(progress, ref.size)
        meter.refuse_async()
        with self.stage_copy(ref, storage_key, context=context) as write:
            meter.tell(0)
            write.copy_from(self.backend_of(ref), ref, on_written=meter.tell)
            return _told(write.commit(), meter)

    def stage_copy(
        self, ref: StoredObjectRef, storage_key: str | None = None, *, context: Mapping[str, str] | None = None
    ) -> StagedWrite:
        """Begin to store the same content again; arguments as for ``copy``. No I/O happens yet.

        Raises:
            ConfigurationError: There is no such policy, or a name in its ``key_template`` has no value.
            ContentTooLargeError: The object is over the policy's limit.
        """
        return self.stage(
            storage_key or ref.storage_key,
            filename=ref.original_filename,
            content_type=ref.content_type,
            expected_size=ref.size,
            checksum=ref.checksum or None,
            extra=ref.extra,
            context=context,
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, ref: StoredObjectRef, *, verify: bool | None = None) -> bytes:
        """Return the whole content; meant for small objects.

        Args:
            ref: What to read.
            verify: Whether to hold it against its SHA-256; by default what its policy says.

        Raises:
            ObjectNotFoundError: The object is gone.
            ChecksumMismatchError: It is not what was stored.
            BackendError: It cannot be read.
        """
        backend = self.backend_of(ref)
        if not self.verifies(ref, verify):
            return backend.get(ref.location)
        with VerifyingReader(backend.open_reader(ref.location), ref) as reader:
            return reader.read(-1)

    def open(
        self, ref: StoredObjectRef, *, offset: int = 0, length: int | None = None, verify: bool | None = None
    ) -> BinaryIO:
        """Open the content, or a range of it, as a seekable binary file.

        Where it is verified, its last bytes are given out only if all are what was stored; before a range, or a part
        further on than was read, the whole object is read once.

        Args:
            ref: What to open.
            offset: First byte of the range.
            length: Number of bytes of the range; None for all that follow.
            verify: Whether to hold it against its SHA-256; by default what its policy says.

        Raises:
            ObjectNotFoundError: The object is gone.
            ChecksumMismatchError: It is not what was stored.
            BackendError: It cannot be opened.
        """
        backend = self.backend_of(ref)
        if self.verifies(ref, verify):
            return open_verified(backend, ref, offset=offset, length=length)
        return backend.open(ref.location, offset=offset, length=length)

    def verifies(self, ref: StoredObjectRef, verify: bool | None = None) -> bool:
        """Tell whether an object is held against its SHA-256 when it is read; by default what its policy says."""
        if verify is not None:
            return verify
        policy = self._policies.get(ref.storage_key)
        return policy is not None and policy.verify_reads

    def exists(self, ref: StoredObjectRef) -> bool:
        """Tell whether the object is there.

        Raises:
            BackendError: The backend cannot be asked; that is not the same as "no".
        """
        return self.backend_of(ref).exists(ref.location)

    def stat(self, ref: StoredObjectRef) -> ObjectStat:
        """Return what the backend knows of the object.

        Raises:
            ObjectNotFoundError: The object is gone.
            BackendError: The backend cannot be asked.
        """
        return self.backend_of(ref).stat(ref.location)

    def local_path(self, ref: StoredObjectRef) -> Path | None:
        """Return the file on disk that holds exactly an object; None where its backend keeps none.

        For programs that are pointed at files. Whoever holds the path has no say in when the object is deleted.

        Raises:
            ObjectNotFoundError: The object is gone.
            ChecksumMismatchError: The file is not of the size that the ref says.
            BackendError: The disk cannot be asked.
        """
        backend = self.backend_of(ref)
        if Capability.LOCAL_PATH not in backend.capabilities:
            return None
        path = backend.local_path(ref.location)
        if path is not None:
            try:
                size = path.stat().st_size
            except FileNotFoundError as error:
                raise ObjectNotFoundError("no such object", operation="open", location=ref.location) from error
            check_size(ref, size, operation="open")
        return path

    def verify(self, ref: StoredObjectRef, *, on_read: Callable[[int], object] | None = None) -> None:
        """Read the stored object and hold its size and SHA-256 against the ref.

        Args:
            ref: What to verify.
            on_read: Called with the number of bytes of each piece read; may wait, or raise to end it.

        Raises:
            ObjectNotFoundError: The object is gone.
            ChecksumMismatchError: It is not what was stored.
            BackendError: It cannot be read.
        """
        verify_object(self.backend_of(ref), ref, on_read=on_read)

    # -- deleting ------------------------------------------------------------------------------------------------------

    def delete(self, ref: StoredObjectRef) -> None:
        """Delete the object now, whatever still points at it. Idempotent.

        This is the caller's own decision: rows that hold the ref then point at nothing. Clearing a field is the safe
        way, since the collector looks before it deletes.

        Raises:
            BackendError: It may still be there.
        """
        self._delete(ref, "deleted")

    def _delete(self, ref: StoredObjectRef, reason: Literal["deleted", "discarded"]) -> None:
        self.backend_of(ref).delete(ref.location)
        backend_key = self.backend_key_of(ref.backend, ref.storage_key, ref.location)
        self.events.deleted(ref.location, ref.storage_key, backend_key, reason, size=ref.size)
        undoing = ref.reservation if reason == "discarded" and isinstance(ref, StagedFile) else None
        if not self.give_back(ref.location, ref.storage_key, undoing):
            self.note([ref])

    def give_back(self, location: str, storage_key: str, reservation: Reservation | None = None) -> bool:
        """Count an object no more whose bytes are gone. Never raises.

        Args:
            location: Its key.
            storage_key: Its policy: what one without quotas has stored is counted only where somebody did so by hand,
                and given back by the reconcile.
            reservation: What it is counted with, where a flush that is under way has counted it.

        Returns:
            False where that could not be done now; the reconcile does it.
        """
        policy = self._policies.get(storage_key)
        if self._quotas is not None and (policy is None or policy.quotas):
            try:
                if reservation is not None:
                    reservation.give_back()
                else:
                    self._quotas.release(location)
            except Exception:  # noqa: BLE001 - whatever a database raises: the bytes are gone
                return False
        return True

    def _let_go(self, ref: StoredObjectRef) -> None:
        try:
            self._delete(ref, "discarded")
        except StorageError:
            self.note([ref])
            raise

    def discard(self, staged: StagedFile) -> bool:
        """Let go what was staged and not used. True when it was deleted now; False when something has seen it.

        Raises:
            BackendError: It may still be there; the reconcile finds it.
        """
        return staged.discard()

    # -- notes ---------------------------------------------------------------------------------------------------------

    def note(self, refs: Iterable[StoredObjectRef]) -> None:
        """Remember objects that probably nobody points at, for the collector to look at. Blocks on nothing.

        Only for promptness: the reconcile finds what is forgotten here, so the oldest give way past 10,000.
        """
        self._notes.extend(refs)

    @property
    def has_notes(self) -> bool:
        """Whether anything was noted since the notes were last taken."""
        return bool(self._notes)

    def take_notes(self) -> list[StoredObjectRef]:
        """Return the objects noted since the last call."""
        taken: list[StoredObjectRef] = []
        with suppress(IndexError):
            while True:
                taken.append(self._notes.popleft())
        return taken


def _filled(write: StagedWrite, stream: ReadableStream, meter: Meter) -> StagedFile:
    meter.tell(0)
    write.write_from(stream, on_written=meter.tell if meter.is_wanted else None)
    return _told(write.commit(), meter)


def _told(stored: StagedFile, meter: Meter) -> StagedFile:
    """Tell that a file is stored; when that fails, nobody has its ref and it goes."""
    try:
        meter.tell(stored.size, at_end=True)
    except BaseException:
        with suppress(StorageError):
            stored.discard()
        raise
    return stored


def _by_key(policies: Mapping[str, StoragePolicy] | Iterable[StoragePolicy]) -> dict[str, StoragePolicy]:
    if isinstance(policies, Mapping):
        for key, policy in policies.items():
            if key != policy.storage_key:
                raise ConfigurationError(f"policy {policy.storage_key!r} is filed under {key!r}", value=key)
        return dict(policies)
    found: dict[str, StoragePolicy] = {}
    for policy in policies:
        if policy.storage_key in found:
            raise ConfigurationError(f"two policies are named {policy.storage_key!r}", value=policy.storage_key)
        found[policy.storage_key] = policy
    return found
