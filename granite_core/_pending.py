"""A file that is stored and that its policy's validators have not all passed yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cached_property, partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Final

from granite_core._hops import open_reader
from granite_core.backends.base import StorageBackend
from granite_core.errors import ConfigurationError, ContentRejectedError, StorageError
from granite_core.events import EventHub
from granite_core.hooks import Announcement
from granite_core.refs import StagedFile
from granite_core.validation import Candidate, is_async, naming_the_field

if TYPE_CHECKING:
    from granite_core.policies import StoragePolicy

__all__ = ["PendingFile", "ask_before", "check_colour", "run_to_end"]


class PendingFile:
    """A stored file between the last byte and the moment that anyone gets its ref.

    Args:
        staged: The file.
        policy: Whose validators look at it.
        backend: Where it is.
        field: Name for errors; the ``storage_key`` where absent.
        events: Hears of a refusal.
        stays: Whether it stays when a validator fails without refusing it, because it can be judged again.
    """

    def __init__(
        self,
        staged: StagedFile,
        policy: StoragePolicy,
        backend: StorageBackend,
        field: str | None,
        events: EventHub,
        *,
        stays: bool = False,
    ) -> None:
        self.staged: Final = staged
        self.backend: Final = backend
        self._policy = policy
        self._field = field
        self._events = events
        self._stays = stays
        self.validators: Final = policy.validators

    @cached_property
    def candidate(self) -> Candidate:
        """What the validators are given."""
        staged, backend = self.staged, self.backend
        return Candidate(
            staged,
            self._field or self._policy.storage_key,
            open=partial(backend.open, staged.location),
            open_async=partial(open_reader, backend, partial(backend.open_reader, staged.location), wanted=staged.size),
        )

    def accept(self) -> StagedFile:
        """Have the validators look at it, one after the other; return it when none refuses.

        Raises:
            ValidationFailedError: One refuses; nothing remains.
            ConfigurationError: One is asynchronous, and this thread runs an event loop; nothing remains.
        """
        try:
            for validator in self.validators:
                with naming_the_field(self.candidate):
                    verdict = validator(self.candidate)
                    if isawaitable(verdict):
                        _run_here(verdict, validator, self.staged.storage_key)
        except BaseException as error:
            self.refuse(error)
            raise
        return self.staged

    def refuse(self, error: BaseException) -> None:
        """Let it go because of an error, unless that is for whoever holds it to do. Blocks, never raises."""
        if isinstance(error, ContentRejectedError):
            self._events.refused(error, self.staged.storage_key)
        if not self._stays:
            self.discard()

    def discard(self) -> None:
        """Let it go. Blocks, never raises: what cannot be deleted now is found by the collector."""
        with suppress(StorageError):
            self.staged.discard()


def ask_before(policy: StoragePolicy, announced: Announcement) -> None:
    """Have the hooks of a policy decide, one after the other, whether an upload may begin.

    Raises:
        StorageError: One of them refuses; so does whatever else one raises.
        ConfigurationError: One is asynchronous, and this thread runs an event loop.
    """
    for hook in policy.before_upload:
        with naming_the_field(announced):
            if is_async(hook) and _runs_a_loop():
                raise _wrong_colour(hook, policy.storage_key)
            answer = hook(announced)
            if isawaitable(answer):
                _run_here(answer, hook, policy.storage_key)


def check_colour(policy: StoragePolicy) -> None:
    """Refuse, before anything is stored, what would have to run asynchronous validators where that cannot be done.

    Raises:
        ConfigurationError: A validator is asynchronous, and this thread runs an event loop.
    """
    for validator in policy.validators:
        if is_async(validator) and _runs_a_loop():
            raise _wrong_colour(validator, policy.storage_key)


def _run_here(verdict: Awaitable[object], validator: Callable[..., object], storage_key: str) -> None:
    run_to_end(verdict, validator, storage_key)


def run_to_end(verdict: Awaitable[object], validator: Callable[..., object], storage_key: str) -> object:
    """Run what a function of a policy has begun, in a thread without an event loop, and return its answer.

    Raises:
        ConfigurationError: This thread runs an event loop.
    """
    if _runs_a_loop():
        if asyncio.iscoroutine(verdict):
            verdict.close()
        raise _wrong_colour(validator, storage_key)
    return asyncio.run(_awaited(verdict))


async def _awaited(verdict: Awaitable[object]) -> object:
    return await verdict


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _wrong_colour(validator: Callable[..., object], storage_key: str) -> ConfigurationError:
    name = getattr(validator, "__qualname__", type(validator).__qualname__)
    return ConfigurationError(
        f"{name} of policy {storage_key!r} is asynchronous, and this thread runs an event loop: store "
        "with AsyncStorageManager, flush an AsyncSession, or make it synchronous",
        operation="put",
        value=name,
    )
