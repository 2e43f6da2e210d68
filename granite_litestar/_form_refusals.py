"""Forms that are refused: what the answer tells of the files that were kept, and of tokens that came too late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from litestar.enums import MediaType
from litestar.exceptions.responses import ExceptionResponseContent, create_exception_response

from granite_core import UploadGoneError
from granite_litestar._form_draft import FormDraft, token_error
from granite_litestar._streaming import result_of
from granite_litestar.exceptions import FormValidationError, handle_storage_error

if TYPE_CHECKING:
    from litestar.connection import Request
    from litestar.response import Response
    from litestar.types import ExceptionHandler

__all__ = ["refusal_handlers"]


@dataclass
class _Refusal(ExceptionResponseContent):
    """Litestar's answer, and what is told of the files that were kept."""

    staged: Mapping[str, Any] | None = None


def refusal_handlers() -> dict[type[Exception], ExceptionHandler[Any]]:
    """Return what an application registers; what it registers itself for these, or for what they are, goes first."""
    return {FormValidationError: handle_invalid_form, UploadGoneError: handle_used_token}


def handle_invalid_form(request: Request[Any, Any, Any], error: FormValidationError) -> Response[Any]:
    """Answer a form that does not validate: Litestar's answer, with the tokens of the files that were kept."""
    own = _handler_of(request, error, handle_invalid_form)
    if own is not None:
        return own(request, error)
    if not error.staged:
        return create_exception_response(request, error)
    return _Refusal(
        status_code=int(error.status_code),
        detail=error.detail,
        media_type=MediaType.JSON,
        headers={"Cache-Control": "no-store"},  # a token is a permission
        extra=error.extra,
        staged={name: list(tokens) for name, tokens in error.staged.items()},
    ).to_response(request)


def handle_used_token(request: Request[Any, Any, Any], error: UploadGoneError) -> Response[Any]:
    """Answer a token that somebody was faster with: as one that was used long ago, where it came in a form."""
    draft = result_of(request.scope)
    names = {
        part.spec.name: None
        for part in (draft.redeemed if isinstance(draft, FormDraft) else ())
        if part.staged is not None and part.staged.location == error.location
    }
    if isinstance(draft, FormDraft) and names:
        refused = FormValidationError([token_error(name) for name in names], texts=draft.texts)
        own = _handler_of(request, refused, None) or handle_invalid_form
        return own(request, refused)
    own = _handler_of(request, error, handle_used_token) or handle_storage_error
    return own(request, error)


def _handler_of(
    request: Request[Any, Any, Any], error: Exception, ours: ExceptionHandler[Any] | None
) -> ExceptionHandler[Any] | None:
    """The application's own handler of an error, as Litestar finds it, but for ours."""
    handlers = request.scope["route_handler"].resolve_exception_handlers()
    status: list[Any] = [error.status_code] if isinstance(error, FormValidationError) else []
    keys = [*status, *type(error).__mro__]
    return next((handlers[key] for key in keys if key in handlers and handlers[key] is not ours), None)
