"""How the body of a form is taken in: parts while they arrive, or JSON with tokens in the place of files."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from litestar.connection import Request

from granite_core import ContentTooLargeError, ValidationFailedError
from granite_litestar._form_draft import FormDraft
from granite_litestar._form_plan import FileField, FormPlan
from granite_litestar._streaming import FileSink, UploadRequest
from granite_litestar.exceptions import FormValidationError, MalformedBodyError, UnsupportedBodyError
from granite_litestar.multipart import MultipartDecoder, PartHead, encode_text_parts

if TYPE_CHECKING:
    from granite_litestar._token_desk import TokenDesk

__all__ = ["FORM", "JSON", "FormBodyPlan", "bare_type"]

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"


class FormBodyPlan(msgspec.Struct, frozen=True):
    """Takes a form in while it arrives.

    Args:
        form: What it may hold.
        max_parts: How many parts it may have.
        max_body: Its largest size in bytes, where there is one.
        shown_parts: How many texts the stand-in may have, since Litestar limits the parts of a form too.
        desk: The application's tokens; None where the form takes none.
        declared: As what the handler declares it: a form, which may come as JSON too where tokens stand for its files,
            or JSON alone.
    """

    form: FormPlan
    max_parts: int
    max_body: int | None
    shown_parts: int
    desk: TokenDesk | None = None
    declared: Literal["form", "json"] = "form"

    @property
    def described(self) -> FormPlan:
        """What the API's description tells of."""
        return self.form

    @property
    def media_types(self) -> tuple[str, ...]:
        """In which types it may come."""
        forms = (FORM,) if self.declared == "form" else ()
        return (*forms, JSON) if self.form.takes_json else forms

    def adapt(self, upload: UploadRequest) -> None:
        """Let Litestar see a form where JSON comes for a handler that declares one: it would not ask for its body."""
        if self.declared == "form" and self.form.takes_json and bare_type(upload) == JSON:
            boundary = f"granite-{secrets.token_hex(16)}"
            upload.stand_in_boundary = boundary
            shown = f"{FORM}; boundary={boundary}".encode()
            headers = [(name, value) for name, value in upload.scope["headers"] if name.lower() != b"content-type"]
            upload.scope["headers"] = [*headers, (b"content-type", shown)]

    async def read(self, upload: UploadRequest) -> bytes:
        """Stage the files, keep the texts, and return what Litestar reads: the texts alone."""
        draft = FormDraft(self.form, upload.scope["route_handler"].default_deserializer)
        kind = bare_type(upload)
        if kind not in self.media_types:
            raise _unsupported(self.media_types, kind)
        raw = await self._read_json(upload, draft) if kind == JSON else b""
        boundary = upload.stand_in_boundary.encode() if kind == JSON else _boundary(upload)
        if kind == FORM:
            await self._read_parts(upload, draft, boundary)
        if self.desk is not None:
            from granite_litestar._request_tokens import redeem_tokens  # there already, where there is a desk

            await redeem_tokens(draft, self.desk, upload)
        draft.finish()
        if draft.build() is None and self.form.keeps_files and self.desk is not None:
            from granite_litestar._request_tokens import keep_files  # likewise

            await keep_files(draft, self.desk, upload)
        upload.result = draft
        return raw if self.declared == "json" else encode_text_parts(boundary, draft.texts[: self.shown_parts])

    async def _read_json(self, upload: UploadRequest, draft: FormDraft) -> bytes:
        limit = self.form.limits.max_text_size
        body = bytearray()
        while (data := await upload.next_chunk()) is not None:
            body += data
            if len(body) > limit:
                raise ContentTooLargeError(
                    f"the request's body: more than the {limit} bytes allowed",
                    operation="put",
                    limit=limit,
                    value=len(body),
                )
        try:
            found = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise MalformedBodyError(detail="The body is no object of JSON, or too deep") from error
        draft.add_json(found)
        return bytes(body)

    async def _read_parts(self, upload: UploadRequest, draft: FormDraft, boundary: bytes) -> None:
        decoder = MultipartDecoder(boundary, max_parts=self.max_parts)
        part: _Part | None = None
        try:
            while (data := await upload.next_chunk()) is not None:
                for event in decoder.feed(data):
                    if isinstance(event, PartHead):
                        part = _Part(event, draft, upload)
                    elif part is not None:
                        await (part.end() if event is None else part.write(event))
            decoder.close()
        except BaseException:
            if part is not None:
                await part.abort()
            raise


class _Part:
    """One part of a form on its way in."""

    __slots__ = ("_draft", "_fate", "_file", "_head", "_size", "_spec", "_text", "_upload")

    def __init__(self, head: PartHead, draft: FormDraft, upload: UploadRequest) -> None:
        self._head = head
        self._draft = draft
        self._upload = upload
        self._fate = draft.fate_of(head)
        self._spec = draft.plan.fields.get(head.name)
        self._text = bytearray()
        self._size = 0
        self._file: FileSink | None = None

    async def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._fate in ("text", "token"):
            self._draft.admit_text(self._head.name, self._size, len(data))
            self._text += data
            return
        if self._fate == "store" and self._file is None:
            await self._open()
        if self._file is not None:
            await self._file.write(data)
        elif not self._draft.ignore(self._head.name, len(data)):
            raise FormValidationError(self._draft.errors)

    async def end(self) -> None:
        if self._fate == "text":
            self._draft.add_text(self._head, bytes(self._text))
        elif self._fate == "token" and isinstance(self._spec, FileField):
            self._draft.add_token(self._spec, bytes(self._text))
        elif self._fate == "store" and self._file is None and self._head.filename:
            # An empty file. One without a name is a browser's file input that was left empty: absence.
            await self._open()
        if self._file is not None and isinstance(self._spec, FileField):
            try:
                staged = await self._file.commit()
            except ValidationFailedError as error:
                self._draft.refuse_file(self._spec, error)
            else:
                self._draft.add_file(self._spec, staged)

    async def abort(self) -> None:
        if self._file is not None:
            await self._file.abort()

    async def _open(self) -> None:
        if not isinstance(self._spec, FileField) or not self._draft.admit_file(self._spec, self._head):
            self._fate = "ignore"
            return
        file = FileSink(
            self._upload,
            self._spec.storage_key,
            filename=self._head.filename,
            content_type=self._head.content_type,
            field=self._spec.name,
        )
        try:
            await file.begin()
        except ValidationFailedError as error:
            self._draft.refuse_file(self._spec, error)
            self._fate = "ignore"
        else:
            self._file = file


def bare_type(upload: UploadRequest) -> str:
    """Return the media type of a body as it came, without parameters."""
    return upload.headers.get("content-type", "").partition(";")[0].strip().lower()


def _boundary(upload: UploadRequest) -> bytes:
    """The boundary as Litestar reads it too, since it parses the stand-in."""
    request: Request[Any, Any, Any] = Request(upload.scope)
    _, options = request.content_type
    return options.get("boundary", "").encode()


def _unsupported(wanted: tuple[str, ...], kind: str) -> UnsupportedBodyError:
    return UnsupportedBodyError(
        detail=f"A {' or '.join(wanted)} body is expected, not {kind or 'one without a Content-Type'}",
        headers={"Accept-Post": ", ".join(wanted)},
        extra={"code": "not_a_form", "limit": [*wanted], "value": kind},
    )
