"""Raw bodies: one file is the whole request, as ``curl -T``, ``fetch(url, {method: "PUT", body: file})`` send it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import msgspec
from litestar.params import BodyKwarg
from litestar.types import Empty

from granite_core import AsyncStorageManager, ConfigurationError
from granite_core.serving import filename_of
from granite_litestar._digests import announced_sha256
from granite_litestar._form_plan import storage_key_of
from granite_litestar._streaming import FileSink
from granite_litestar.exceptions import MalformedBodyError, UnsupportedBodyError

if TYPE_CHECKING:
    from granite_litestar._streaming import UploadRequest

__all__ = ["RawBodyPlan", "RawUpload", "plan_raw_body"]

FIELD: Final = "data"
"""What errors call a body that has no field name."""

_STAND_IN: Final = b"-"
"""What Litestar reads instead of the body; it must not be empty, or no data would be handed on."""

_DIGEST_HEADERS: Final = ("repr-digest", "content-digest")


@dataclass(frozen=True, eq=False)
class RawUpload(BodyKwarg):
    """Marks a handler's ``data`` as the request's raw body, stored while it arrives.

    ``data: Annotated[StagedFile, RawUpload(Document.file)]``. The name comes from ``Content-Disposition`` or from
    ``?filename=``, the type from ``Content-Type``; a ``Repr-Digest`` or ``Content-Digest`` with ``sha-256``
    (RFC 9530) is verified. Keyword arguments are those of Litestar's ``Body``.

    Args:
        target: The ``storage_key`` of a policy, or the mapped attribute of a file field, whose policy is used.
        field: What errors call the body.
    """

    target: object = None
    field: str = FIELD
    media_type: str = "application/octet-stream"

    def __init__(self, target: object = None, *, field: str = FIELD, **described: Any) -> None:
        described.setdefault("media_type", "application/octet-stream")
        super().__init__(**described)
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "field", field)

    def __hash__(self) -> int:
        return id(self)


class RawBodyPlan(msgspec.Struct, frozen=True):
    """Takes a raw body in while it arrives.

    Args:
        storage_key: The policy it is stored under.
        field: What errors call it.
        max_size: Largest body in bytes by the policy, checked against ``Content-Length`` before a byte is read.
        max_body: Largest body in bytes by the application's setting.
        description: What the API documentation says of it.
    """

    storage_key: str
    field: str
    max_body: int | None
    description: str | None

    @property
    def described(self) -> RawBodyPlan:
        """What the API's description tells of."""
        return self

    def adapt(self, upload: UploadRequest) -> None:
        """Nothing to change."""

    async def read(self, upload: UploadRequest) -> bytes:
        """Stage the body, and return a stand-in for it."""
        _refuse_foreign(upload)
        announced = upload.content_length
        # The announced length is checked here, before a byte is read: a client that asked with Expect: 100-continue
        # never sends it.
        sink = FileSink(
            upload,
            self.storage_key,
            filename=_filename(upload),
            content_type=upload.headers.get("content-type"),
            field=self.field,
            expected_size=announced,
            checksum=_announced_checksum(upload),
        )
        try:
            await sink.begin()
            while (data := await upload.next_chunk()) is not None:
                await sink.write(data)
            upload.result = await sink.commit()
        except BaseException:
            await sink.abort()
            raise
        return _STAND_IN


def plan_raw_body(marker: RawUpload, manager: AsyncStorageManager, *, where: str, max_body: Any) -> RawBodyPlan:
    """Plan the bodies of a handler.

    Args:
        marker: How the handler declares its data.
        manager: Knows the policies.
        where: The handler, for errors.
        max_body: The application's own limit in bytes, None for none, Empty where it sets nothing.

    Raises:
        ConfigurationError: The target is no policy and no file field.
    """
    key = storage_key_of(marker.target, where=where)
    try:
        manager.get_policy(key)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    return RawBodyPlan(
        storage_key=key,
        field=marker.field,
        max_body=None if max_body is Empty else max_body,
        description=marker.description,
    )


def _refuse_foreign(upload: UploadRequest) -> None:
    content_type = upload.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        raise UnsupportedBodyError(
            detail="The file itself is expected as the body, not a form with a file in it",
            extra={"code": "not_a_raw_body", "value": content_type},
        )
    if "content-range" in upload.headers:
        # RFC 9110 section 14.5: to store a part as if it were the whole would lose the rest.
        raise MalformedBodyError(detail="A part of a file (Content-Range) cannot be stored: send the whole")


def _filename(upload: UploadRequest) -> str | None:
    disposition = upload.headers.get("content-disposition", "")
    if (name := filename_of(disposition)) is not None:
        return name
    query = upload.scope.get("query_string", b"").decode("latin-1")
    try:
        return next(iter(parse_qs(query).get("filename", [])), None)
    except ValueError as error:
        raise MalformedBodyError(detail="The query has too many parameters") from error


def _announced_checksum(upload: UploadRequest) -> str | None:
    """The SHA-256 the client announces (RFC 9530), as ``"sha256:…"``; other algorithms are passed over."""
    for header in _DIGEST_HEADERS:
        if (digest := announced_sha256(upload.headers, header)) is not None:
            return f"sha256:{digest.hex()}"
    return None
