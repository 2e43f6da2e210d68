"""What goes wrong, as HTTP: one table from Granite's errors to answers, and the refusals that only HTTP knows.

Answers have the shape of Litestar's own: ``{"status_code": …, "detail": …, "extra": …}``. ``extra`` names ``code``,
``field``, ``limit`` and ``value`` where there are such; for a form that does not validate it is a list with one entry
for each field that is wrong. Only public messages reach a client; what an operator needs goes to the logger
``granite.requests``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from litestar.enums import MediaType
from litestar.exceptions import ClientException, HTTPException
from litestar.exceptions.responses import ExceptionResponseContent, create_debug_response

from granite_core import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ChecksumMismatchError,
    CollectionRefusedError,
    ConfigurationError,
    ContentRejectedError,
    ContentTooLargeError,
    ContentTypeNotAllowedError,
    InspectionUnavailableError,
    InvalidKeyError,
    ObjectNotFoundError,
    QuotaExceededError,
    StaleRefError,
    StorageError,
    StorageFullError,
    TokenExpiredError,
    TokenInvalidError,
    UnfinishableError,
    UploadBusyError,
    UploadDeniedError,
    UploadGoneError,
    UploadLostError,
    UploadNotFoundError,
    UploadOffsetError,
)
from granite_core.events import object_id, printable
from granite_core.logs import describe_error, exc_info_of

if TYPE_CHECKING:
    from litestar.connection import Request
    from litestar.response import Response
    from litestar.types import ExceptionHandler

    from granite_core.uploads import StagedToken

__all__ = [
    "FieldError",
    "FormValidationError",
    "MalformedBodyError",
    "UnsupportedBodyError",
    "UploadInterruptedError",
    "exception_handlers",
    "handle_storage_error",
    "status_of",
]

logger = logging.getLogger("granite.requests")

UNLOGGED_PATH_OPT_KEY: Final = "granite_unlogged_path"
"""Handlers with this in their ``opt`` have permissions in their paths, which must not end in logs. What it is there is
the parameter that can be told by its hash; True where there is none."""

RETRY_AFTER_SECONDS: Final = 5
"""What a 503 advises a client to wait (RFC 9110 section 10.2.3)."""

_STATUS: Final[Mapping[type[StorageError], HTTPStatus]] = {
    ContentTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ContentTypeNotAllowedError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    # Not 507, which RFC 4331 section 6 gives to WebDAV: clients repeat what is answered 5xx by themselves.
    QuotaExceededError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UploadDeniedError: HTTPStatus.FORBIDDEN,
    ContentRejectedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ChecksumMismatchError: HTTPStatus.UNPROCESSABLE_ENTITY,
    StaleRefError: HTTPStatus.CONFLICT,
    UnfinishableError: HTTPStatus.GONE,
    UploadBusyError: HTTPStatus.LOCKED,
    UploadGoneError: HTTPStatus.GONE,
    # Not 423: whoever took it may have finished. Clients of tus ask after a 409 where the upload stands, and go on.
    UploadLostError: HTTPStatus.CONFLICT,
    UploadNotFoundError: HTTPStatus.NOT_FOUND,
    UploadOffsetError: HTTPStatus.CONFLICT,
    ObjectNotFoundError: HTTPStatus.NOT_FOUND,
    TokenInvalidError: HTTPStatus.NOT_FOUND,
    TokenExpiredError: HTTPStatus.GONE,
    BackendUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    InspectionUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    # RFC 4918 section 11.5. Without Retry-After: a program is not to repeat such a request by itself.
    StorageFullError: HTTPStatus.INSUFFICIENT_STORAGE,
    AccessDeniedError: HTTPStatus.INTERNAL_SERVER_ERROR,
    BackendError: HTTPStatus.INTERNAL_SERVER_ERROR,
    ConfigurationError: HTTPStatus.INTERNAL_SERVER_ERROR,
    CollectionRefusedError: HTTPStatus.INTERNAL_SERVER_ERROR,
    StorageError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

_CLIENTS_OWN: Final = (ContentRejectedError, ChecksumMismatchError)
"""Errors whose field, limit and value describe what the client itself sent, and may be told to it."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with one field of a form.

    Args:
        field: The field's name in the form; empty where the form as a whole is wrong.
        code: A stable name of the kind of error: ``required``, ``invalid``, ``duplicate``, ``too_many``,
            ``not_a_file``, ``not_text``, ``token_refused``, ``unknown``; for what a policy's validator refused, the
            code of its error.
        message: What a person can be told.
        limit: The limit that was passed, where there is one.
        value: The value that passed it.
    """

    field: str
    code: str
    message: str
    limit: object = None
    value: object = None

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as it stands in the answer; what is not known is left out."""
        entry: dict[str, Any] = {"field": self.field, "code": self.code, "message": self.message}
        return entry | _given(limit=self.limit, value=self.value)


class FormValidationError(HTTPException):
    """The form does not validate: 422, naming every field that is wrong.

    A class of its own: Litestar's ``ValidationException`` answers 400, and handlers registered for it stay as they are.
    """

    status_code = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(
        self,
        errors: Sequence[FieldError],
        *,
        staged: Mapping[str, Sequence[StagedToken]] | None = None,
        texts: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Name what is wrong.

        Args:
            errors: At least one.
            staged: Tokens of the files that are kept, by the name of their field. The answer tells them as ``staged``.
            texts: The texts that came, with the names of their fields, for a handler that shows the form again. No
                answer tells them by itself.
        """
        names = ", ".join(dict.fromkeys(error.field for error in errors if error.field))
        super().__init__(
            detail=f"The form is not valid: {names}" if names else "The form is not valid",
            extra=[error.to_dict() for error in errors],
        )
        self.errors = tuple(errors)
        self.staged = dict(staged or {})
        self.texts = tuple(texts)


class MalformedBodyError(ClientException):
    """The request cannot be understood: 400."""


class UnsupportedBodyError(HTTPException):
    """The body is of a kind, or in a coding, that the route does not take: 415 (RFC 9110 section 15.5.16)."""

    status_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class UploadInterruptedError(ClientException):
    """The client left before its upload was complete. Nobody reads the answer; nothing of the upload remains."""


def exception_handlers() -> dict[int | type[Exception], ExceptionHandler[Any]]:
    """Return what an application registers so that Granite's errors become the answers of the table.

    The refusals defined here need no handler: Litestar answers them by their own status.
    """
    return {StorageError: handle_storage_error}


def status_of(error: StorageError) -> HTTPStatus:
    """Return the status that answers an error. Pure."""
    if isinstance(error, ChecksumMismatchError) and error.operation != "put":
        # What is stored has changed: not the fault of whoever asks for it.
        return HTTPStatus.INTERNAL_SERVER_ERROR
    if isinstance(error, InvalidKeyError) and error.operation == "put" and error.field is not None:
        # What the request gave for a name in the policy's key_template: a tenant of 5,000 letters.
        return HTTPStatus.BAD_REQUEST
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def handle_storage_error(request: Request[Any, Any, Any], error: StorageError) -> Response[Any]:
    """Answer one of Granite's errors: the public part to the client, the rest to the operator's log."""
    status = status_of(error)
    _report(request, error, status)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and request.app.debug:
        return create_debug_response(request, error)
    extra: dict[str, Any] | None = None
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        extra = {"code": error.code} | _given(field=error.field)
        if isinstance(error, _CLIENTS_OWN):
            extra |= _given(limit=error.limit, value=error.value)
    return ExceptionResponseContent(
        status_code=int(status),
        detail="Internal Server Error" if status == HTTPStatus.INTERNAL_SERVER_ERROR else error.public_message,
        media_type=MediaType.JSON,
        headers=_headers_of(error, status),
        extra=extra,
    ).to_response(request)


def _headers_of(error: StorageError, status: HTTPStatus) -> dict[str, str] | None:
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(RETRY_AFTER_SECONDS)}
    if isinstance(error, (TokenExpiredError, TokenInvalidError)):
        # Caches may keep a 404 or 410 as they see fit (RFC 9110 section 15.1); secrets come and go.
        return {"Cache-Control": "no-store"}
    return None


def _path_of(request: Request[Any, Any, Any]) -> str:
    handler = request.scope.get("route_handler")
    unlogged = handler.opt.get(UNLOGGED_PATH_OPT_KEY) if handler is not None else None
    if not unlogged:
        return request.scope["path"]
    template = request.scope["path_template"]
    secret = request.path_params.get(unlogged)
    return template if secret is None else f"{template.rpartition('/')[0]}/#{object_id(str(secret))}"


def _report(request: Request[Any, Any, Any], error: StorageError, status: HTTPStatus) -> None:
    """One line for the operator; with the stack where waiting will not mend it."""
    # A row that points at nothing is never normal, although the client is only told 404.
    ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(error, ObjectNotFoundError)
    theirs = logging.DEBUG if isinstance(error, _CLIENTS_OWN) else logging.INFO  # of refused content an event tells
    level = logging.ERROR if ours else theirs
    if not logger.isEnabledFor(level):
        return
    named = object_id(error.location) if error.location else None
    logger.log(
        level,
        "%s %s answered %d: %s: %s (%s)",
        *(request.method, printable(_path_of(request)), status, error.code, describe_error(error)),
        ", ".join(
            f"{name} {value}"
            for name, value in (("operation", error.operation), ("backend", error.backend), ("object", named))
            if value
        ),
        extra={
            "event": "request_failed",
            "method": request.method,
            "route": request.scope["path_template"],
            "status": int(status),
            "error": error.code,
            "operation": error.operation,
            "backend": error.backend,
            "object_id": named,
        },
        exc_info=exc_info_of(error) if status == HTTPStatus.INTERNAL_SERVER_ERROR else None,
    )


def _given(**values: object) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None
    }
