"""The backend: what it is told, and the calls that need no state of their own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

from granite_core.backends._bucket import answer_overrides, bucket_prefix, is_object_key, patience, web_address
from granite_core.backends._parts import MAX_PART_BYTES, MIN_PART_BYTES, copy_ranges
from granite_core.backends._signed import signed_form, signed_part, signed_put
from granite_core.backends._sigv4 import LONGEST, object_address, sign
from granite_core.backends.base import (
    NO_OPTIONS,
    Capability,
    ObjectReader,
    ObjectStat,
    ObjectWriter,
    ResumableWriter,
    SignedRequest,
    StorageBackend,
    WriteOptions,
    location_of,
)
from granite_core.backends.s3 import direct
from granite_core.backends.s3.answers import ask, pages
from granite_core.backends.s3.client import boto_errors, error_code, failure, http_status, make_client
from granite_core.backends.s3.deletion import delete_together, versions_of
from granite_core.backends.s3.diagnosis import BucketSettings, judge_bucket
from granite_core.backends.s3.download import S3Reader
from granite_core.backends.s3.facts import ask_bucket
from granite_core.backends.s3.presign import bucket_address, signing_key
from granite_core.backends.s3.resuming import S3ResumableWriter, discard_upload
from granite_core.backends.s3.upload import S3Writer
from granite_core.errors import (
    AccessDeniedError,
    BackendError,
    ConfigurationError,
    ObjectExistsError,
    ObjectNotFoundError,
)
from granite_core.findings import Finding
from granite_core.keys import DIRECT, PIECES, RESERVED_PREFIX, owner_of_piece, split_key
from granite_core.refs import StoredObjectRef

__all__ = ["S3StorageBackend"]

MIB: Final = 1024 * 1024
COPY_PART_BYTES: Final = 256 * MIB
SENDERS: Final = 8

# What of extra_put_kwargs other calls take: whose bucket, and the keys of SSE-C.
_OWNER: Final = frozenset({"ExpectedBucketOwner", "RequestPayer"})
_CUSTOMER_KEY: Final = frozenset({"SSECustomerAlgorithm", "SSECustomerKey", "SSECustomerKeyMD5"})
_PRESIGNED: Final = frozenset(
    {
        Capability.PRESIGNED_GET,
        Capability.PRESIGNED_PARTS,
        Capability.PRESIGNED_POST,
        Capability.PRESIGNED_PUT,
    }
)
_REPLACED: Final = {"MetadataDirective": "REPLACE", "TaggingDirective": "REPLACE"}  # a copy is its own policy's object


class S3StorageBackend(StorageBackend):
    """Keeps objects in a bucket.

    Args:
        bucket: Its name. It must exist.
        prefix: A folder in the bucket that holds everything; slashes at its ends do not matter.
        client: A boto3 client to use as it is. Without one, one is made at first use, in each process its own, with
            credentials and settings from where boto3 takes them.
        extra_put_kwargs: Arguments for every object stored (``{"ServerSideEncryption": "aws:kms"}``), as of
            ``put_object``.
        endpoint_url: Address of a store that is not AWS.
        region: The bucket's region.
        part_size: Bytes up to which an object is one PUT, and the length of parts above; at least 5 MiB. An upload
            holds two of them at most, all uploads of the process ``buffer_budget.limit`` bytes.
        atomic_create: Whether the store honours ``If-None-Match: *`` when an object is written, as AWS, MinIO and R2
            do. Ceph 16 ignores it: say False there, and ``Capability.ATOMIC_CREATE`` is not claimed. ``check`` finds
            out.
        delete_versions: Whether a delete in a versioned bucket removes every version. False leaves them to a lifecycle
            rule.
        max_workers: How many threads of an asynchronous manager may be in here at a time.
        presign_endpoint_url: Address of the store as browsers see it, for presigned addresses, where that is another
            than ``endpoint_url`` (``http://minio:9000`` among containers, ``https://files.example`` outside).
        public_url: Address under which everybody may have the bucket's objects: a CDN before it, or the bucket itself
            where it is public. ``https://cdn.example`` and the object's whole key, ``prefix`` and all.
        connect_timeout: Seconds until a connection that does not come about is given up; 5 by default.
        read_timeout: Seconds of silence until an answer is given up; 60 by default.
        max_attempts: How often a request is tried at most; what ``AWS_MAX_ATTEMPTS`` says, or 3, by default. No request
            takes longer than ``max_attempts * (connect_timeout + read_timeout)`` seconds of silence, and the pauses
            between, which are a second, then two, then four, at most.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    backend_name = "s3"
    capabilities = frozenset(
        {
            Capability.ATOMIC_CREATE,
            Capability.BATCH_DELETE,
            Capability.PRESIGNED_GET,
            Capability.PRESIGNED_PARTS,
            Capability.PRESIGNED_POST,
            Capability.PRESIGNED_PUT,
            Capability.RESUMABLE_WRITES,
            Capability.SERVER_SIDE_COPY,
        }
    )

    presign_limit = LONGEST
    """How long an address of ``presign_get`` may be good: seven days, and never longer than temporary credentials."""

    copy_limit: int = MAX_PART_BYTES
    """Bytes up to which one request copies an object (S3 API, "CopyObject")."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        client: Any = None,
        extra_put_kwargs: Mapping[str, Any] | None = None,
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
        waits = patience(connect_timeout=connect_timeout, read_timeout=read_timeout, max_attempts=max_attempts)
        if client is not None and (endpoint_url or region or any(value is not None for value in waits.values())):
            raise ConfigurationError(f"endpoint_url, region, {', '.join(waits)} are the client's own")
        self.bucket = bucket
        self.prefix = bucket_prefix(prefix)
        self.part_size = part_size
        self.atomic_create = atomic_create
        self.delete_versions = delete_versions
        self.max_workers = max_workers
        self._given_client = client
        self._endpoint_url = endpoint_url
        self._region = region
        self._patience: dict[str, Any] = waits
        self._extra = dict(extra_put_kwargs or {})
        self._presign_endpoint_url = web_address("presign_endpoint_url", presign_endpoint_url)
        self._public_url = web_address("public_url", public_url)
        self._bucket_address: str | None = None
        self.capabilities = self._claims()
        self._made_client: tuple[int, Any] | None = None
        self._made_pool: tuple[int, ThreadPoolExecutor] | None = None

    # -- what is made at first use, in each process --------------------------------------------------------------------

    @property
    def client(self) -> Any:
        """The boto3 client.

        Raises:
            MissingExtraError: boto3 is not installed.
            ConfigurationError: It is too old for ``atomic_create``.
        """
        if self._given_client is not None:
            return self._given_client
        made = self._made_client
        if made is None or made[0] != os.getpid():
            client = make_client(
                endpoint_url=self._endpoint_url,
                region=self._region,
                connections=self.max_workers + SENDERS,
                **self._patience,
            )
            if self.atomic_create and not _knows_conditional_writes(client):
                raise ConfigurationError(
                    "this boto3 knows no conditional writes: update it, or say atomic_create=False"
                )
            # No lock: a fork while one is held would hang the child. Of two threads, the later one's client is kept.
            made = self._made_client = (os.getpid(), client)
        return made[1]

    def _pool(self) -> ThreadPoolExecutor:
        made = self._made_pool
        if made is None or made[0] != os.getpid():
            made = self._made_pool = (os.getpid(), ThreadPoolExecutor(SENDERS, thread_name_prefix="granite-s3"))
        return made[1]

    def close(self) -> None:
        """Close the client, if it is ours, and end the threads."""
        super().close()
        pool, self._made_pool = self._made_pool, None
        if pool is not None and pool[0] == os.getpid():
            pool[1].shutdown()
        made, self._made_client = self._made_client, None
        if made is not None and made[0] == os.getpid():
            made[1].close()

    # -- the primitives ------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> tuple[str, ...]:
        """The store's address, the bucket, and the folders of the prefix."""
        address = urlsplit(str(self.client.meta.endpoint_url)).netloc.rpartition("@")[2].lower()
        if address.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            address = "aws"  # one bucket answers under many names there
        return ("s3", address, self.bucket, *self.prefix.split("/")[:-1])

    def open_writer(
        self,
        location: str,
        *,
        content_type: str | None = None,
        size: int | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ObjectWriter:
        """Return a writer; type and metadata are kept with the object."""
        split_key(location)
        return S3Writer(self, location, content_type, size, options)

    def open_reader(self, location: str, *, offset: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object, or a range of it: one GET."""
        return S3Reader(self, location, offset, length)

    def stat(self, location: str) -> ObjectStat:
        """Return size, time and etag of an object: one HEAD."""
        head = self._head(location)
        return ObjectStat(location, int(head["ContentLength"]), head["LastModified"], _etag(head))

    def delete(self, location: str | StoredObjectRef) -> None:
        """Delete an object, by its key or ref, with every version of it where the bucket keeps them."""
        location = location_of(location)
        target = self._object(location)
        try:
            answer = self._ask("delete_object", **target)
            # A versioned bucket says that it only hid the object behind a marker.
            if self.delete_versions and (answer.get("DeleteMarker") or answer.get("VersionId")):
                for version in versions_of(self, target["Key"]):
                    self._ask("delete_object", **target, VersionId=version)
        except boto_errors() as error:
            if error_code(error) == "NoSuchKey":
                return
            raise failure(error, "delete", location) from error

    def list_objects(self, *, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectStat]:
        """List the bucket page by page, each page beginning after the last key seen."""
        last = start_after or ""
        while True:
            arguments = {**self._owner(), "Bucket": self.bucket, "Prefix": self.prefix + prefix}
            if last:
                arguments["StartAfter"] = self.prefix + last
            try:
                page = self._ask("list_objects_v2", **arguments)
            except boto_errors() as error:
                raise failure(error, "list", prefix) from error
            entries = page.get("Contents", ())
            for entry in entries:
                key = str(entry["Key"])[len(self.prefix) :]
                if key <= last:
                    raise BackendError("list: the store's listing is not sorted", operation="list", backend="s3")
                last = key
                if is_object_key(key):
                    yield ObjectStat(key, int(entry["Size"]), entry["LastModified"], _etag(entry))
            if not page.get("IsTruncated"):
                return
            if not entries:
                raise BackendError("list: an empty page that is not the last", operation="list", backend="s3")

    # -- capabilities --------------------------------------------------------------------------------------------------

    def copy(self, source: str, target: str, *, options: WriteOptions = NO_OPTIONS) -> None:
        """Copy an object inside the store, in parts where it is too large for one request."""
        head = self._head(source)
        origin = {
            "CopySource": {"Bucket": self.bucket, "Key": self._object(source)["Key"]},
            "CopySourceIfMatch": head["ETag"],
            **{f"CopySource{name}": value for name, value in self._pick(_CUSTOMER_KEY).items()},
        }
        try:
            if int(head["ContentLength"]) <= self.copy_limit:
                kept = {name: value for name, value in self._extra.items() if name not in _OWNER}
                described = self._copy_head(head, options)
                self._ask("copy_object", **{**kept, **described, **self._object(target)}, **origin, **_REPLACED)
            else:
                self._copy_parts(target, head, origin, options)
        except boto_errors() as error:
            if http_status(error) == 412:
                self._head(source)  # absent, most likely
            raise failure(error, "copy", source) from error

    def delete_many(self, locations: Collection[str]) -> Mapping[str, Exception]:
        """Delete objects, a thousand with each request, and every version of them where the bucket keeps them."""
        return delete_together(self, locations)

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
        """Sign an address of the object, as Signature Version 4 has it."""
        if Capability.PRESIGNED_GET not in self.capabilities:
            return super().presign_get(location, starts=starts, expires_in=expires_in)
        split_key(location)
        asked = answer_overrides(
            starts + expires_in,
            content_type=content_type,
            content_disposition=content_disposition,
            cache_control=cache_control,
            request_payer=self._extra.get("RequestPayer"),
        )
        return sign(
            object_address(self._address(), self.prefix + location),
            asked,
            signing_key(self.client),
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
        """Sign a PUT: length, type and checksum are bound in."""
        self._may_sign(Capability.PRESIGNED_PUT)
        return signed_put(
            self._address(),
            self._object(location)["Key"],
            signing_key(self.client),
            starts=starts,
            expires_in=expires_in,
            size=size,
            content_type=content_type,
            checksum=checksum,
            headers=direct.encryption_headers(self._extra),
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
        self._may_sign(Capability.PRESIGNED_POST)
        return signed_form(
            self._address(),
            self.bucket,
            self._object(location)["Key"],
            signing_key(self.client),
            starts=starts,
            expires_in=expires_in,
            min_size=min_size,
            max_size=max_size,
            content_type=content_type,
            checksum=checksum,
            redirect=redirect,
            fields=direct.encryption_headers(self._extra),
        )

    def begin_parts(self, location: str, *, content_type: str | None = None) -> str:
        """Begin a multipart upload."""
        self._may_sign(Capability.PRESIGNED_PARTS)
        return direct.begin_parts(self, location, content_type)

    def presign_part(
        self, location: str, upload: str, number: int, *, starts: datetime, expires_in: timedelta, size: int
    ) -> SignedRequest:
        """Sign a PUT of a part."""
        self._may_sign(Capability.PRESIGNED_PARTS)
        return signed_part(
            self._address(),
            self._object(location)["Key"],
            signing_key(self.client),
            starts=starts,
            expires_in=expires_in,
            size=size,
            upload=upload,
            number=number,
        )

    def list_parts(self, location: str, upload: str) -> Mapping[int, int]:
        """Ask the bucket which parts have come."""
        return direct.list_parts(self, location, upload)

    def join_parts(self, location: str, upload: str) -> None:
        """Complete a multipart upload."""
        direct.join_parts(self, location, upload)

    def discard_parts(self, location: str, upload: str | None = None) -> None:
        """Abort the multipart uploads of the key."""
        direct.discard_parts(self, location, upload)

    def public_address(self, location: str) -> str | None:
        """Return the object's address under ``public_url``."""
        split_key(location)
        return self._public_url and object_address(f"{self._public_url}/", self.prefix + location)

    def resume_writer(
        self,
        location: str,
        *,
        offset: int = 0,
        state: str | None = None,
        content_type: str | None = None,
        options: WriteOptions = NO_OPTIONS,
    ) -> ResumableWriter:
        """Go on with a multipart upload; what is less than a part waits in small objects under reserved keys."""
        split_key(location)
        return S3ResumableWriter(self, location, offset, state, content_type, options)

    def discard_unfinished(self, location: str, state: str | None) -> None:
        """Abort the multipart uploads of the key, and remove the small objects."""
        discard_upload(self, location, state)

    def clear_unfinished(self, older_than: timedelta, *, keep: Collection[str] = ()) -> int:
        """Abort multipart uploads under the prefix into which nothing has come for that long, and remove old pieces."""
        before, cleared = datetime.now(UTC) - older_than, 0
        arguments = {**self._owner(), "Bucket": self.bucket}
        try:
            for page in pages(self.client, "list_multipart_uploads", **arguments, Prefix=self.prefix):
                for upload in page.get("Uploads", ()):
                    key = upload["Key"]
                    ours = key.startswith(self.prefix) and key[len(self.prefix) :] not in keep
                    if ours and upload["Initiated"] < before:
                        cleared += self._clear_upload(key, upload["UploadId"], before)
            for folder, owner in ((PIECES, owner_of_piece), (DIRECT, str)):
                for page in pages(self.client, "list_objects_v2", **arguments, Prefix=self.prefix + folder):
                    for entry in page.get("Contents", ()):
                        key = entry["Key"][len(self.prefix) :]
                        if entry["LastModified"] < before and owner(key) not in keep:
                            self.delete(key)
                            cleared += 1
        except boto_errors() as error:
            raise failure(error, "clear", "") from error
        return cleared

    def check(self) -> None:
        """Look whether the bucket can be used, creates atomically as claimed, and forgets what is deleted.

        Raises:
            ConfigurationError: It does not, or it may not be used with these credentials.
            BackendUnavailableError: The store cannot be asked.
        """
        probe = f"{RESERVED_PREFIX}-check-{uuid4().hex}"
        try:
            self.put_bytes(probe, b"")
            if self.atomic_create:
                self._check_atomic_create(probe)
            next(self.list_objects(), None)
        except AccessDeniedError as error:
            raise ConfigurationError(f"bucket {self.bucket!r} may not be used: {error}", backend="s3") from error
        except BackendError as error:
            if error.retryable:
                raise
            raise ConfigurationError(f"bucket {self.bucket!r} cannot be used: {error}", backend="s3") from error
        finally:
            with suppress(BackendError):
                self.delete(probe)
        if not self.delete_versions:
            self._check_lifecycle()

    def diagnose(self, *, origins: Collection[str] = (), receives: bool = False) -> Sequence[Finding]:
        """Judge the bucket: versions, lifecycle rules, unfinished uploads, who may read it, CORS, the store's clock."""
        address = urlsplit(str(self.client.meta.endpoint_url))
        settings = BucketSettings(
            bucket=self.bucket,
            prefix=self.prefix,
            delete_versions=self.delete_versions,
            public=self._public_url is not None,
            endpoint="" if self.identity[1] == "aws" else f"{address.scheme}://{address.netloc.rpartition('@')[2]}",
        )
        facts = ask_bucket(self.client, self.bucket, self.prefix, self._owner())
        return list(judge_bucket(facts, settings, origins, receives=receives))

    def __repr__(self) -> str:
        return f"<S3StorageBackend {self.bucket!r} {self.prefix!r}>"

    def _claims(self) -> frozenset[Capability]:
        claimed = set(type(self).capabilities)
        if not self.atomic_create:
            claimed.discard(Capability.ATOMIC_CREATE)
        # A customer's key would have to be sent by the browser. Access points and directory buckets are signed for in
        # ways of their own.
        if "SSECustomerKey" in self._extra or self.bucket.startswith("arn:") or self.bucket.endswith("--x-s3"):
            claimed -= _PRESIGNED
        if self._public_url is not None:
            claimed.add(Capability.PUBLIC_ADDRESS)
        return frozenset(claimed)

    def _may_sign(self, wanted: Capability) -> None:
        if wanted not in self.capabilities:
            raise ConfigurationError(f"others cannot write to bucket {self.bucket!r}", value=wanted.value)

    def _address(self) -> str:
        if self._bucket_address is None:
            self._bucket_address = bucket_address(self.client, self.bucket, self._presign_endpoint_url)
        return self._bucket_address

    # -- for writers and readers ---------------------------------------------------------------------------------------

    def _object(self, location: str, *, reading: bool = False, part: bool = False) -> dict[str, Any]:
        """Return the arguments that name an object."""
        split_key(location)
        wanted = _OWNER | _CUSTOMER_KEY if reading or part else _OWNER
        return {**self._pick(wanted), "Bucket": self.bucket, "Key": self.prefix + location}

    def _object_head(
        self, content_type: str | None, options: WriteOptions, metadata: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the arguments that describe a new object: the backend's own, and over them the policy's."""
        head = {name: value for name, value in self._extra.items() if name not in _OWNER}
        head.update(_asked(options))
        head["Metadata"] = {**self._extra.get("Metadata", {}), **metadata, **options.metadata}
        if content_type is not None:
            head["ContentType"] = content_type
        return head

    def _copy_head(self, head: Mapping[str, Any], options: WriteOptions) -> dict[str, Any]:
        """Return the arguments that describe a copy: as its original, or anew."""
        if options.content_type is not None:
            return self._object_head(options.content_type, options, {})
        return self._object_head(head.get("ContentType"), options, head.get("Metadata", {}))

    def _create_only(self) -> dict[str, str]:
        return {"IfNoneMatch": "*"} if self.atomic_create else {}

    def _head(self, location: str) -> Any:
        arguments = self._object(location, reading=True)
        try:
            return self._ask("head_object", **arguments)
        except boto_errors() as error:
            found = failure(error, "stat", location)
            if isinstance(found, ObjectNotFoundError):
                self._check_bucket()  # the answer to a HEAD has no body that tells a missing bucket from a missing key
            raise found from error

    def _ask(self, operation: str, **arguments: Any) -> Any:
        return ask(self.client, operation, **arguments)

    def _check_bucket(self) -> None:
        try:
            self._ask("head_bucket", **self._pick(_OWNER - {"RequestPayer"}), Bucket=self.bucket)
        except boto_errors() as error:
            if http_status(error) == 404:
                raise BackendError(f"there is no bucket {self.bucket!r}", operation="stat", backend="s3") from error
            if http_status(error) != 403:  # who may not list a bucket may not ask for it either
                raise failure(error, "stat", "") from error

    def _owner(self) -> dict[str, Any]:
        """Return the arguments that say whose the bucket is."""
        return self._pick(_OWNER)

    def _pick(self, names: frozenset[str]) -> dict[str, Any]:
        return {name: value for name, value in self._extra.items() if name in names}

    def _copy_parts(self, target: str, head: Any, origin: dict[str, Any], options: WriteOptions) -> None:
        place, customer = self._object(target), self._pick(_CUSTOMER_KEY)
        upload = {
            **place,
            "UploadId": self._ask(
                "create_multipart_upload",
                **place,
                **self._copy_head(head, options),
            )["UploadId"],
        }
        parts = []
        try:
            for number, (first, last) in enumerate(
                copy_ranges(int(head["ContentLength"]), base=min(COPY_PART_BYTES, self.copy_limit)), 1
            ):
                answer = self._ask(
                    "upload_part_copy",
                    **upload,
                    **origin,
                    **customer,
                    PartNumber=number,
                    CopySourceRange=f"bytes={first}-{last}",
                )
                parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
            self._ask("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(Exception):
                self._ask("abort_multipart_upload", **upload)
            raise

    def _clear_upload(self, key: str, upload_id: str, before: datetime) -> bool:
        upload = {**self._owner(), "Bucket": self.bucket, "Key": key, "UploadId": upload_id}
        try:
            for page in pages(self.client, "list_parts", **upload):
                if any(part["LastModified"] >= before for part in page.get("Parts", ())):
                    return False
            self._ask("abort_multipart_upload", **upload)
        except boto_errors() as error:
            if error_code(error) == "NoSuchUpload":  # its writer, or another process that clears, was faster
                return False
            raise
        return True

    def _check_atomic_create(self, taken: str) -> None:
        # Ceph 16 heeds the condition of a PUT and ignores that of a completion.
        for in_parts in (False, True):
            with suppress(ObjectExistsError), S3Writer(self, taken, None, None, NO_OPTIONS) as writer:
                writer.write(b"x")
                if in_parts:
                    try:
                        writer.send_part()
                    except boto_errors() as error:
                        raise failure(error, "check", taken) from error
                writer.commit()
                raise ConfigurationError("the store ignores If-None-Match: say atomic_create=False", backend="s3")

    def _check_lifecycle(self) -> None:
        try:
            if not self._ask("get_bucket_versioning", Bucket=self.bucket).get("Status"):
                return
            rules = self._ask("get_bucket_lifecycle_configuration", Bucket=self.bucket).get("Rules", [])
        except boto_errors() as error:
            if error_code(error) != "NoSuchLifecycleConfiguration":
                raise failure(error, "check", "") from error
            rules = []
        if not any(rule.get("Status") == "Enabled" and "NoncurrentVersionExpiration" in rule for rule in rules):
            raise ConfigurationError(
                f"bucket {self.bucket!r} keeps every version: give it a lifecycle rule with"
                " NoncurrentVersionExpiration, or say delete_versions=True",
                backend="s3",
            )


def _knows_conditional_writes(client: Any) -> bool:
    model = client.meta.service_model
    return all(
        "IfNoneMatch" in model.operation_model(name).input_shape.members
        for name in ("PutObject", "CompleteMultipartUpload")
    )


def _asked(options: WriteOptions) -> dict[str, Any]:
    """What a policy asks for, as arguments of ``PutObject``."""
    asked = {
        "StorageClass": options.storage_class,
        "ServerSideEncryption": options.encryption,
        "SSEKMSKeyId": options.encryption_key,
        "CacheControl": options.cache_control,
        "ContentDisposition": options.content_disposition,
        "Tagging": urlencode(options.tags, quote_via=quote) or None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _etag(answer: Any) -> str | None:
    return str(answer.get("ETag") or "").strip('"') or None
