"""What a validator is given, and what its refusal becomes. Pure: the content is opened by whoever stored it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeAlias, final

from granite_core.errors import StorageError, ValidationFailedError
from granite_core.hooks import Announcement
from granite_core.refs import StoredObjectRef

if TYPE_CHECKING:
    from typing import Self

__all__ = ["AsyncReadable", "Candidate", "Validator", "async_form", "is_async", "naming_the_field"]


class AsyncReadable(Protocol):
    """An object being read from front to back by asynchronous code."""

    @property
    def size(self) -> int:
        """Length in bytes of the whole object."""
        ...

    async def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; ``b""`` only at the end; all that is left for -1."""
        ...

    async def close(self) -> None:
        """Free what is held."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


@final
class Candidate:
    """A file that was stored just now, while its policy's validators look at it. Nobody else has its ref yet.

    Attributes:
        ref: Its receipt: size, checksum, type, name and key.
        field: The form or model field it came for; the ``storage_key`` of its policy where none is known.
    """

    __slots__ = ("_open", "_open_async", "field", "ref")

    def __init__(
        self,
        ref: StoredObjectRef,
        field: str,
        *,
        open: Callable[[], BinaryIO],  # noqa: A002 - what it does is what open() does
        open_async: Callable[[], Awaitable[AsyncReadable]],
    ) -> None:
        self.ref = ref
        self.field = field
        self._open = open
        self._open_async = open_async

    def open(self) -> BinaryIO:
        """Open the stored bytes as a seekable binary file, to be closed by the caller. Blocks.

        Raises:
            BackendError: They cannot be read.
        """
        return self._open()

    async def open_async(self) -> AsyncReadable:
        """Open the stored bytes for an asynchronous validator: ``async with await candidate.open_async() as reader``.

        Raises:
            BackendError: They cannot be read.
        """
        return await self._open_async()


Validator: TypeAlias = Callable[[Candidate], object]
"""Looks at a stored file and refuses it by raising ``ValidationFailedError``, or ``ValueError`` with a text that may be
shown to whoever sent the file. Synchronous ones are called in the backend's threads, asynchronous ones awaited."""


def async_form(hook: Callable[..., object]) -> Callable[..., object] | None:
    """Return how asynchronous code calls a validator or hook so that it is to be awaited; None where it blocks.

    That is its ``call_async``, if it has one beside ``__call__``, or itself, if it is asynchronous.
    """
    form = getattr(hook, "call_async", None)
    return form if callable(form) else hook if is_async(hook) else None


def is_async(validator: Callable[..., object]) -> bool:
    """Tell whether a validator or hook is an asynchronous function, or an object that is called like one."""
    return inspect.iscoroutinefunction(validator) or inspect.iscoroutinefunction(type(validator).__call__)


@contextmanager
def naming_the_field(candidate: Candidate | Announcement) -> Iterator[None]:
    """Turn what a validator or hook raises into a refusal that says which field it is about.

    Raises:
        ValidationFailedError: The validator refused.
        StorageError: The content could not be read, or was refused in another way.
    """
    try:
        yield
    except StorageError as error:
        error.field = error.field or candidate.field
        error.operation = error.operation or "put"
        raise
    except ValueError as error:
        raise ValidationFailedError(str(error) or "the file is not valid", field=candidate.field) from error
