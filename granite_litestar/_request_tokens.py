"""Tokens for the files of one request: what handlers ask for, and what becomes of those that a form brings."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from granite_core import StagedFile, StorageError, TokenInvalidError
from granite_core.logs import describe_error, extra_of
from granite_core.uploads import StagedToken, StagedTokens
from granite_litestar._form_draft import FormDraft, TokenPart, token_error
from granite_litestar._form_plan import TokenRules, purpose_of, storage_key_of
from granite_litestar._streaming import UploadRequest, result_of
from granite_litestar._token_desk import TokenDesk
from granite_litestar.exceptions import FieldError, FormValidationError

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection

__all__ = ["RequestTokens", "SyncRequestTokens", "keep_files", "redeem_tokens", "tokens_of"]

logger = logging.getLogger("granite.uploads")


class RequestTokens:
    """Tokens for the files of one request, bound to its subject. A dependency of handlers.

    Args:
        desk: The application's.
        subject: Of the request.
        draft: The request's form, where it has one.
    """

    def __init__(self, desk: TokenDesk, subject: str, draft: FormDraft | None = None) -> None:
        self.subject: Final = subject
        self._desk: Final = desk
        self._draft: Final = draft

    @property
    def sync(self) -> SyncRequestTokens:
        """The same verbs for handlers that run in a thread."""
        return SyncRequestTokens(self)

    async def issue(
        self, staged: StagedFile, target: object = None, *, purpose: object = None, expires_in: timedelta | None = None
    ) -> StagedToken:
        """Keep a staged file past the end of the request, and return its token.

        Args:
            staged: The file.
            target: The mapped attribute that will take it, where the application has several databases.
            purpose: What the token is good for beside its policy: a name, or a mapped attribute; as the field says that
                takes it.
            expires_in: How long the file waits, where not as ``TokenConfig`` says.

        Raises:
            StaleRefError: It was staged too long ago, or let go.
            UploadNotFoundError: It came by a token, and a row has taken it since.
        """
        tokens = self._desk.tokens_for(staged.storage_key if target is None else target)
        return await tokens.issue(staged, purpose=purpose_of(purpose), subject=self.subject, expires_in=expires_in)

    def describe(self, token: str, staged: StagedFile, target: object, *, purpose: object = None) -> StagedToken:
        """Return what is told of a token whose file is known already, to hand it back.

        Raises:
            TokenInvalidError: It has expired since.
        """
        tokens = self._desk.tokens_for(target).sync
        return tokens.describe(token, staged, purpose=purpose_of(purpose), subject=self.subject)

    async def redeem(
        self, token: str, target: object, *, purpose: object = None, once: bool = True, field: str | None = None
    ) -> StagedFile:
        """Return the file that a token is for, to be assigned to a field.

        Args:
            token: As it came from the client.
            target: The ``storage_key`` of a policy, or the mapped attribute of a file field.
            purpose: What it must be good for.
            once: Whether the row that gets the file ends the token.
            field: What the client calls it.

        Raises:
            FormValidationError: It is not good, for whatever reason, and the field is named: 422.
            TokenInvalidError: It is not good, and no field is named.
        """
        key = storage_key_of(target, where="redeem")
        tokens = self._desk.tokens_for(target)
        with _naming(field):
            return await tokens.redeem(token, key, purpose=purpose_of(purpose), subject=self.subject, once=once)

    async def discard(self, token: str, target: object, *, purpose: object = None) -> None:
        """End a token whose file is not wanted any more.

        Raises:
            TokenInvalidError: It is not good, for whatever reason.
        """
        key = storage_key_of(target, where="discard")
        await self._desk.tokens_for(target).discard(token, key, purpose=purpose_of(purpose), subject=self.subject)

    async def refusal(self, errors: Sequence[FieldError]) -> FormValidationError:
        """Keep the files of the request's form, and return what refuses it, with their tokens: ``raise`` it.

        For what only the handler finds wrong. Roll back first, where the files got into rows. What cannot be kept is
        left out.

        Args:
            errors: What is wrong, at least one.
        """
        told: dict[str, list[StagedToken]] = {}
        for file in self._files():
            with _unkept(file.staged):
                token = file.known or await self.issue(file.staged, file.target, purpose=file.purpose)
                told.setdefault(file.name, []).append(token)
        return self._refusal(errors, told)

    def _files(self) -> Iterator[_FormFile]:
        """The files of the form, with the tokens by which they came."""
        for spec, staged, part in self._draft.uploads() if self._draft is not None else ():
            purpose = spec.tokens.purpose if spec.tokens is not None else None
            known = None
            if part is not None:
                with _unkept(staged):
                    known = self.describe(part.text, staged, spec.target, purpose=purpose)
                if known is None:
                    continue
            yield _FormFile(spec.name, spec.target, purpose, staged, known)

    def _refusal(self, errors: Sequence[FieldError], told: Mapping[str, Sequence[StagedToken]]) -> FormValidationError:
        return FormValidationError(errors, staged=told, texts=self._draft.texts if self._draft is not None else ())

    def _sync_for(self, target: object) -> StagedTokens:
        return self._desk.tokens_for(target).sync


class _FormFile(msgspec.Struct, frozen=True):
    """A file of a form that is to be shown again."""

    name: str
    target: object
    purpose: object
    staged: StagedFile
    known: StagedToken | None


class SyncRequestTokens:
    """The verbs of ``RequestTokens`` for handlers that run in a thread, of an application with a synchronous engine."""

    def __init__(self, tokens: RequestTokens) -> None:
        self._of: Final = tokens

    def issue(
        self, staged: StagedFile, target: object = None, *, purpose: object = None, expires_in: timedelta | None = None
    ) -> StagedToken:
        """Keep a staged file past the end of the request, and return its token; see ``RequestTokens.issue``."""
        tokens = self._of._sync_for(staged.storage_key if target is None else target)
        return tokens.issue(staged, purpose=purpose_of(purpose), subject=self._of.subject, expires_in=expires_in)

    def redeem(
        self, token: str, target: object, *, purpose: object = None, once: bool = True, field: str | None = None
    ) -> StagedFile:
        """Return the file that a token is for; see ``RequestTokens.redeem``."""
        key = storage_key_of(target, where="redeem")
        tokens = self._of._sync_for(target)
        with _naming(field):
            return tokens.redeem(token, key, purpose=purpose_of(purpose), subject=self._of.subject, once=once)

    def discard(self, token: str, target: object, *, purpose: object = None) -> None:
        """End a token whose file is not wanted any more; see ``RequestTokens.discard``."""
        key = storage_key_of(target, where="discard")
        self._of._sync_for(target).discard(token, key, purpose=purpose_of(purpose), subject=self._of.subject)

    def refusal(self, errors: Sequence[FieldError]) -> FormValidationError:
        """Keep the files of the request's form, and return what refuses it; see ``RequestTokens.refusal``."""
        told: dict[str, list[StagedToken]] = {}
        for file in self._of._files():
            with _unkept(file.staged):
                token = file.known or self.issue(file.staged, file.target, purpose=file.purpose)
                told.setdefault(file.name, []).append(token)
        return self._of._refusal(errors, told)


async def tokens_of(desk: TokenDesk, connection: ASGIConnection[Any, Any, Any, Any]) -> RequestTokens:
    """Return the tokens of a request."""
    draft = result_of(connection.scope)
    return RequestTokens(desk, await desk.subject_of(connection), draft if isinstance(draft, FormDraft) else None)


async def redeem_tokens(draft: FormDraft, desk: TokenDesk, upload: UploadRequest) -> None:
    """Exchange the tokens of a form for their files; what is not good is noted as an error of its field."""
    if not (parts := draft.tokens()):
        return
    tokens = await tokens_of(desk, upload.connection())
    redeemed: dict[TokenPart, StagedFile] = {}
    for part in parts:
        rules = part.spec.tokens or TokenRules()
        with suppress(TokenInvalidError):
            found = await tokens.redeem(part.text, part.spec.target, purpose=rules.purpose, once=rules.once)
            redeemed[part] = found
    draft.settle(redeemed)


async def keep_files(draft: FormDraft, desk: TokenDesk, upload: UploadRequest) -> None:
    """Keep the files of a form that does not validate, so that it can be shown again with their tokens."""
    tokens = RequestTokens(desk, await desk.subject_of(upload.connection()), draft)
    draft.kept = (await tokens.refusal(draft.errors)).staged


@contextmanager
def _naming(field: str | None) -> Iterator[None]:
    """Refuse a token as a form does, where its field has a name."""
    try:
        yield
    except TokenInvalidError as error:
        if field is None:
            raise
        raise FormValidationError([token_error(field)]) from error


@contextmanager
def _unkept(staged: StagedFile) -> Iterator[None]:
    """Pass over a file that cannot be kept: the client learns what is wrong all the same, and sends it again."""
    try:
        yield
    except StorageError as error:
        extra = extra_of(staged, event="not_kept", error=error.code)
        logger.warning("%s of a form is not kept: %s", extra["object_id"], describe_error(error), extra=extra)
