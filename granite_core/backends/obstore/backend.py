"""The backend: what it is told, and the calls that need no state of their own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import uuid4

from granite_core.backends._bucket import (
    TOKEN,
    answer_overrides,
    bucket_prefix,
    delete_alone,
    goes_with_others,
    is_object_key,
    patience,
    web_address,
)
from granite_core.backends._parts import MAX_PART_BYTES, MIN_PART_BYTES
from granite_core.backends._signed import signed_form, signed_put
from granite_core.backends._sigv4 import LONGEST, object_address, sign
from granite_core.backends.base import (
    NO_OPTIONS,
    Capability,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    SignedRequest,
    StorageBackend,
    WriteOptions,
    location_of,
)
from granite_core.backends.obstore.diagnosis import judge_store
from granite_core.backends.obstore.download import ObstoreReader
from granite_core.backends.obstore.library import check_path, failure, library, obstore_errors
from granite_core.backends.obstore.listing import listed, walked
from granite_core.backends.obstore.signing import Signer, bucket_address, can_sign
from granite_core.backends.obstore.stores import Patience, place_of, place_of_url
from granite_core.backends.obstore.upload import ObstoreWriter
from granite_core.backends.pieces import clear_pieces, discard_pieces, resume_in_pieces
from granite_core.backends.resumable import ResumableWriter
from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConfigurationError,
    ObjectNotFoundError,
    StorageError,
)
from granite_core.findings import Finding
from granite_core.keys import DIRECT, PIECES, RESERVED_PREFIX
from granite_core.refs import StoredObjectRef

__all__ = ["ObstoreStorageBackend"]

MIB: Final = 1024 * 1024
COPY_LIMIT: Final = MAX_PART_BYTES
"""Bytes up to which one request copies an object on S3."""

DELETE_AT_ONCE: Final = 1000
"""Objects that are deleted by one call: what one request of S3 takes."""

_ORDERED: Final = frozenset({"s3", "gs", "az", "memory"})
_BUCKETS: Final = frozenset({"s3", "gs", "az"})
_HEADERS: Final = (
    ("Storage-Class", "storage_class"),
    ("Cache-Control", "cache_control"),
    ("Content-Disposition", "content_disposition"),
)


class ObstoreStorageBackend(StorageBackend):
    """Keeps objects in a store that obstore reaches. On S3 it is interchangeable with ``S3StorageBackend``.

    Args:
        store: An ``obstore.store.S3Store``, ``GCSStore``, ``AzureStore``, ``LocalStore`` or ``MemoryStore``, used as it
            is; or a URL: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://account/container/prefix``. The store
            of a URL is made at first use, in each process its own, with credentials from where obstore takes them.
        prefix: A folder in the store that holds everything; slashes at its ends do not matter.
        endpoint_url: Address of an S3 that is not AWS.
        region: The region of a bucket of S3.
        part_size: Bytes up to which an object is one request, and the length of parts above; at least 5 MiB. An upload
            holds three of them at most. An object of which the length is not known beforehand has at most 10,000 parts
            of this length.
        atomic_create: Whether a small object is stored on condition that its key is free, for stores that heed that.
            ``Capability.ATOMIC_CREATE`` is not claimed: of large ones obstore does not ask it.
        delete_versions: Whether a delete in a versioned bucket must remove every version, which obstore cannot do:
            ``check`` refuses such a bucket. False leaves old versions to a lifecycle rule.
        max_workers: How many threads of an asynchronous manager may be in here at a time.
        presign_endpoint_url: Address of an S3 as browsers see it, for presigned addresses, where that is another.
        public_url: Address under which everybody may have the bucket's objects. ``https://cdn.example`` and the
            object's whole key, ``prefix`` and all.
        connect_timeout: Seconds until a connection that does not come about is given up; 5 by default.
        read_timeout: Seconds of silence until an answer is given up; 60 by default.
        max_attempts: How often a request is tried at most; 4 by default.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    backend_name = "obstore"
    capabilities = frozenset({Capability.SERVER_SIDE_COPY, Capability.RESUMABLE_WRITES})
    """``BATCH_DELETE`` as well in a bucket; ``PRESIGNED_GET``, ``PRESIGNED_PUT`` and ``PRESIGNED_POST`` where
    S3 credentials are known here: from the store,
    from the environment, or from a ``credential_provider`` that is no coroutine function."""

    presign_limit = LONGEST
    """How long an address of ``presign_get`` may be good: seven days, and never longer than temporary credentials."""

    def __init__(
        self,
        store: Any,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        part_size: int = 8 * MIB,
        atomic_create: bool = True,
        delete_versions: bool = True,
        max_workers: int = 16,
        presign_endpoint_url: str | None = None,
        public_url: str | None = None,
        connect_timeout: float | None = None,
        read_timeout: float | None = None,
        max_attempts: int | None = None,
    ) -> None:
        if not MIN_PART_BYTES <= part_size <= MAX_PART_BYTES:
            raise ConfigurationError("part_size must be between 5 MiB and 5 GiB", value=part_size)
        waits: dict[str, Any] = patience(
            connect_timeout=connect_timeout, read_timeout=read_timeout, max_attempts=max_attempts
        )
        if isinstance(store, str):
            self._place, folder = place_of_url(store, Patience(**waits), endpoint_url=endpoint_url, region=region)
            prefix = "/".join(each for each in (folder.strip("/"), (prefix or "").strip("/")) if each)
        elif endpoint_url or region or any(value is not None for value in waits.values()):
            raise ConfigurationError(f"endpoint_url, region, {', '.join(waits)} are the store's own")
        else:
            self._place = place_of(store)
        self.prefix = bucket_prefix(prefix)
        self.part_size = part_size
        self.atomic_create = atomic_create
        self.delete_versions = delete_versions
        self.max_workers = max_workers
        self._presign_endpoint_url = web_address("presign_endpoint_url", presign_endpoint_url)
        self._public_url = web_address("public_url", public_url)
        self._signer = Signer(self._place)
        self._keeps_buffers = self._place.kind == "memory"  # what it is given becomes the object
        self.capabilities = self._claims()
        self._stores: tuple[int, dict[tuple[tuple[str, str], ...], Any]] = (0, {})

    # -- the primitives ------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> tuple[str, ...]:
        """The store, the bucket, and the folders of the prefix; the same as of other backends on that bucket."""
        return (*self._place.identity, *self.prefix.split("/")[:-1])

    def open_writer(
        self,
        location: str,
        *,
        content_type: str | None = None,
        size: int | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ObjectWriter:
        """Return a writer; type and metadata are kept with the object, where the store has such."""
        return ObstoreWriter(self, location, content_type, size, options)

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object, or a range of it: one GET."""
        return ObstoreReader(self, location, offset, length)

    def stat(self, location: str) -> ObjectStat:
        """Return size, time and etag of an object: one HEAD."""
        key = self._key(location)
        try:
            meta = library().head(self._store(), key)
        except obstore_errors() as error:
            raise self._told_apart(failure(error, "stat", location, key=key)) from error
        self._check_meta(meta, "stat", location)
        return ObjectStat(location, int(meta["size"]), meta["last_modified"], _etag(meta))

    def delete(self, location: str | StoredObjectRef) -> None:
        """Delete an object, by its key or ref. In a versioned bucket its versions stay."""
        location = location_of(location)
        key = self._key(location)
        try:
            library().delete(self._store(), key)
        except obstore_errors() as error:
            found = failure(error, "delete", location, key=key)
            if not isinstance(found, ObjectNotFoundError):
                raise found from error

    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        """List the store page by page; a disk folder by folder, since it has no order of its own."""
        for each in self._list(prefix, start_after or ""):
            if is_object_key(each.location):
                yield each

    def _list(self, prefix: str, start_after: str) -> Iterator[ObjectStat]:
        """List whatever is there, reserved keys too."""
        wanted, after = self.prefix + prefix, self.prefix + start_after if start_after else ""
        try:
            if self._place.kind in _ORDERED:
                entries = listed(library(), self._store(), wanted, after, self._is_there)
            else:
                entries = walked(library(), self._store(), wanted, after)
            for meta in entries:
                self._check_meta(meta, "list", prefix)
                found = meta["path"][len(self.prefix) :]
                yield ObjectStat(found, int(meta["size"]), meta["last_modified"], _etag(meta))
            # Nor does obstore tell an empty bucket from one whose every answer comes from something in between.
            if self._place.kind in _BUCKETS and self._is_there(f"{self.prefix}{RESERVED_PREFIX}-none"):
                raise _no_answer("list", prefix)
        except obstore_errors() as error:
            found = failure(error, "list", prefix)
            # A folder may go while it is looked at; a bucket must not be mistaken for an empty one.
            raise _not_absent(found) from error

    # -- capabilities --------------------------------------------------------------------------------------------------

    def copy(self, source: str, target: str, *, options: WriteOptions = NO_OPTIONS) -> None:
        """Copy an object inside the store.

        The bytes pass through here where the policy asks for something that is kept with the object, since obstore
        copies that as it is, and on S3 for objects above 5 GiB.
        """
        origin, destination = self._key(source), self._key(target)
        size = self.stat(source).size
        if (
            self._changes(options)
            or self._is_described_otherwise(source, options.content_type)
            or (self._place.kind == "s3" and size > COPY_LIMIT)
        ):
            self._copy_through_here(source, target, options)
            return
        try:
            library().copy(self._store(), origin, destination)
        except obstore_errors() as error:
            raise self._told_apart(failure(error, "copy", source, key=origin)) from error
        # obstore takes any answer for the store's.
        with suppress(ObjectNotFoundError):
            if self.stat(target).size == size:
                return
        raise BackendUnavailableError("copy: it is not there", operation="copy", backend="obstore", location=target)

    def delete_many(self, locations: Collection[str]) -> Mapping[str, Exception]:
        """Delete objects, many with each request on S3 and Azure, several at a time elsewhere.

        obstore does not say what became of each: where any of them fails, each is deleted by itself.
        """
        if Capability.BATCH_DELETE not in self.capabilities or len(locations) == 1:
            return delete_alone(self.delete, locations)
        together = [each for each in locations if goes_with_others(each)]
        alone = [each for each in locations if not goes_with_others(each)]
        for at in range(0, len(together), DELETE_AT_ONCE):
            some = together[at : at + DELETE_AT_ONCE]
            try:
                library().delete(self._store_for_many(), [self._key(each) for each in some])
            except obstore_errors():
                alone += some
        return delete_alone(self.delete, alone)

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
        """Sign an address of the object, as Signature Version 4 has it. obstore is not asked."""
        if Capability.PRESIGNED_GET not in self.capabilities:
            return super().presign_get(location, starts=starts, expires_in=expires_in)
        address = bucket_address(self._place, self._presign_endpoint_url)
        asked = answer_overrides(
            starts + expires_in,
            content_type=content_type,
            content_disposition=content_disposition,
            cache_control=cache_control,
        )
        return sign(
            object_address(address, self._place.inside + self._key(location)),
            asked,
            self._signer.key(),
            method=method,
            starts=starts,
            expires_in=expires_in,
        )

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
        """Sign a PUT, as Signature Version 4 has it. obstore is not asked."""
        if Capability.PRESIGNED_PUT not in self.capabilities:
            return super().presign_put(location, starts=starts, expires_in=expires_in, size=size)
        return signed_put(
            bucket_address(self._place, self._presign_endpoint_url),
            self._place.inside + self._key(location),
            self._signer.key(),
            starts=starts,
            expires_in=expires_in,
            size=size,
            content_type=content_type,
            checksum=checksum,
            headers={},
        )

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
        """Sign a POST policy."""
        if Capability.PRESIGNED_POST not in self.capabilities:
            return super().presign_post(location, starts=starts, expires_in=expires_in, max_size=max_size)
        return signed_form(
            bucket_address(self._place, self._presign_endpoint_url),
            self._place.bucket,
            self._place.inside + self._key(location),
            self._signer.key(),
            starts=starts,
            expires_in=expires_in,
            min_size=min_size,
            max_size=max_size,
            content_type=content_type,
            checksum=checksum,
            redirect=redirect,
            fields={},
        )

    def public_address(self, location: str) -> str | None:
        """Return the object's address under ``public_url``."""
        return self._public_url and object_address(f"{self._public_url}/", self._place.inside + self._key(location))

    def resume_writer(
        self,
        location: str,
        *,
        offset: int = 0,
        state: str | None = None,
        content_type: str | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ResumableWriter:
        """Go on with an object in pieces, which are joined at the end: obstore does not go on with its own uploads."""
        self._key(location)
        return resume_in_pieces(self, location, offset=offset, state=state, content_type=content_type, options=options)

    def discard_unfinished(self, location: str, state: str | None) -> None:
        """Remove the pieces."""
        discard_pieces(self, location, state)

    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        """Remove old pieces of objects that nobody writes, and what clients wrote directly and nobody waits for.

        Unfinished multipart uploads obstore does not show.
        """
        cleared = clear_pieces(self, self._list(PIECES, ""), older_than, keep=keep)
        if Capability.PRESIGNED_PUT not in self.capabilities:
            return cleared
        before = datetime.now(UTC) - older_than
        for each in self._list(DIRECT, ""):
            if each.modified < before and each.location not in keep:
                self.delete(each.location)
                cleared += 1
        return cleared

    def check(self) -> None:
        """Look whether the store can be used, and forgets what is deleted.

        Raises:
            ConfigurationError: It does not, or it may not be used with these credentials.
            BackendUnavailableError: The store cannot be asked.
        """
        probe = f"{RESERVED_PREFIX}-check-{uuid4().hex}"
        versioned = False
        try:
            self.put_bytes(probe, b"")
            if self._place.kind == "s3" and self.delete_versions:
                answer = library().put(self._store(), self._key(probe), b"")
                versioned = answer["version"] not in (None, "null")
            next(self.list_objects(), None)
        except AccessDeniedError as error:
            raise ConfigurationError(f"the store may not be used: {error}", backend="obstore") from error
        except obstore_errors() as error:
            raise failure(error, "check", "", key=self._key(probe)) from error
        except BackendError as error:
            if error.retryable:
                raise
            raise ConfigurationError(f"the store cannot be used: {error}", backend="obstore") from error
        finally:
            with suppress(BackendError):
                self.delete(probe)
        if versioned:
            raise ConfigurationError(
                f"bucket {self._place.bucket!r} keeps every version, and obstore cannot delete them: give it a"
                " lifecycle rule with NoncurrentVersionExpiration and say delete_versions=False, or use"
                " S3StorageBackend",
                backend="obstore",
            )

    def diagnose(self, *, origins: Collection[str] = (), receives: bool = False) -> Sequence[Finding]:
        """Say what obstore cannot see or do, and what to do about it."""
        return list(judge_store(self._place, self._place.inside + self.prefix))

    def close(self) -> None:
        """Forget the stores that were made here."""
        super().close()
        self._stores = (0, {})

    def __repr__(self) -> str:
        return f"<ObstoreStorageBackend {'/'.join(self.identity)!r}>"

    def _claims(self) -> frozenset[Capability]:
        claimed = set(type(self).capabilities)
        if self._place.kind in _BUCKETS:
            claimed.add(Capability.BATCH_DELETE)
        if can_sign(self._place):
            claimed |= {Capability.PRESIGNED_GET, Capability.PRESIGNED_POST, Capability.PRESIGNED_PUT}
        if self._public_url is not None:
            claimed.add(Capability.PUBLIC_ADDRESS)
        return frozenset(claimed)

    # -- for writers and readers ---------------------------------------------------------------------------------------

    def _key(self, location: str) -> str:
        check_path(location)
        return self.prefix + location

    def _store(self, options: WriteOptions = NO_OPTIONS) -> Any:
        """Return the store of this process, on S3 with the encryption that a policy asks for."""
        asked = {"server_side_encryption": options.encryption, "sse_kms_key_id": options.encryption_key}
        return self._store_with(**{name: value for name, value in asked.items() if value is not None})

    def _store_for_many(self) -> Any:
        """Return a store that names many objects in one request to delete them."""
        return self._store_with(disable_bulk_delete="false")

    def _store_with(self, **settings: str) -> Any:
        """Return the store of this process, or its like that has other settings, of which only S3 knows any."""
        pid, made = self._stores
        if pid != os.getpid():
            pid, made = self._stores = (os.getpid(), {})
        asked = tuple(settings.items()) if self._place.kind == "s3" else ()
        found = made.get(asked)
        if found is None:
            library()
            # No lock: a fork while one is held would hang the child. Of two threads, the later one's store is kept.
            found = made[asked] = self._like(self._store(), settings) if asked else self._place.make()
        return found

    def _like(self, base: Any, settings: Mapping[str, str]) -> Any:
        return type(base)(
            config={**base.config, **settings},
            prefix=base.prefix,
            client_options=base.client_options,
            retry_config=base.retry_config,
            credential_provider=base.credential_provider,
        )

    def _attributes(
        self, content_type: str | None, options: WriteOptions, metadata: Mapping[str, str]
    ) -> dict[str, str] | None:
        """Return what is kept with an object; None where the store keeps nothing."""
        if self._place.kind == "file":
            return None
        kept = {self._metadata_name(name): value for name, value in {**metadata, **options.metadata}.items()}
        kept.update({name: value for name, field in _HEADERS if (value := getattr(options, field)) is not None})
        if content_type is not None:
            kept["Content-Type"] = content_type
        return kept

    def _metadata_name(self, name: str) -> str:
        return name.replace("-", "_") if self._place.kind == "az" else name  # Azure: names as of C#

    def _changes(self, options: WriteOptions) -> bool:
        """Whether a copy is to be kept otherwise than its source."""
        if self._place.kind == "file":
            return False
        asked = (options.metadata, options.tags, *(getattr(options, field) for _, field in _HEADERS))
        return any(asked) or (self._place.kind == "s3" and bool(options.encryption or options.encryption_key))

    def _is_described_otherwise(self, location: str, wanted: str | None) -> bool:
        """Whether more is kept with an object than a type, or another one."""
        if wanted is None or self._place.kind == "file":
            return False
        return dict(self._attributes_of(location)) != {"Content-Type": wanted}

    def _copy_through_here(self, source: str, target: str, options: WriteOptions) -> None:
        with self.open_reader(source) as reader:
            kept = self._attributes_of(source)
            kind = options.content_type or kept.get("Content-Type")
            writer = self.open_writer(target, content_type=kind, size=reader.size, options=options)
            with writer:
                while data := reader.read(MIB):
                    writer.write(data)
                writer.commit()

    def _attributes_of(self, location: str) -> Mapping[str, str]:
        key = self._key(location)
        try:
            found: Mapping[str, str] = library().get(self._store(), key, options={"head": True}).attributes
        except obstore_errors() as error:
            raise self._told_apart(failure(error, "stat", location, key=key)) from error
        return found

    def _token_of(self, location: str) -> str:
        return self._attributes_of(location).get(self._metadata_name(TOKEN), "")

    def _check_meta(self, meta: Mapping[str, Any], operation: str, location: str) -> None:
        """See that the store has answered, and nothing between us and it: every store of ours tells an etag."""
        if not meta["e_tag"]:
            raise _no_answer(operation, location)

    def _is_there(self, key: str) -> bool:
        if self._place.kind not in _BUCKETS:
            return True
        try:
            library().head(self._store(), key)
        except FileNotFoundError:
            return False
        return True

    def _told_apart(self, found: StorageError) -> StorageError:
        """Return an error, or that of a missing bucket: the answer to a HEAD does not tell it from a missing key."""
        if isinstance(found, ObjectNotFoundError) and self._place.kind in _BUCKETS:
            try:
                library().list_with_delimiter(self._store(), f"{self.prefix}{RESERVED_PREFIX}-none")
            except obstore_errors() as error:
                said = failure(error, "stat", "")
                if not isinstance(said, AccessDeniedError):  # who may not list a bucket may not ask for it either
                    return _not_absent(said)
        return found


def _not_absent(found: StorageError) -> StorageError:
    if isinstance(found, ObjectNotFoundError):
        return BackendError(str(found), operation=found.operation, backend=found.backend)
    return found


def _no_answer(operation: str, location: str) -> StorageError:
    return BackendUnavailableError(
        f"{operation}: what came is no answer of the store", operation=operation, backend="obstore", location=location
    )


def _etag(meta: Mapping[str, Any]) -> str | None:
    return str(meta["e_tag"] or "").strip('"') or None
