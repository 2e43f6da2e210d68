"""What hooks of a policy are given: an upload before its first byte, and a file that a committed row holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from dataclasses import field as with_default
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from granite_core.refs import StoredObjectRef

__all__ = ["AfterCommit", "Announcement", "BeforeUpload", "Committed", "connection_factory"]

connection_factory: Final[ContextVar[Callable[[], object] | None]] = ContextVar("granite_connection", default=None)
"""Makes the connection that the code which runs now answers; set by a framework's plugin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """An upload of which no byte was read yet. All that it says of the content is the sender's word.

    Args:
        storage_key: The policy it is for.
        field: The form or model field it is for; the ``storage_key`` where none is known.
        filename: Its name, cleaned; None where it has none.
        content_type: The media type that is claimed.
        size: The announced length in bytes; None where it is not known. More never comes, or the upload fails.
        context: Values for the names in the policy's ``key_template``: the tenant, for instance.
    """

    storage_key: str
    field: str
    filename: str | None = None
    content_type: str | None = None
    size: int | None = None
    context: Mapping[str, object] = with_default(default_factory=dict)

    @property
    def connection(self) -> Any:
        """The connection that brings it; None outside of a request. In Litestar an ``ASGIConnection``."""
        factory = connection_factory.get()
        return None if factory is None else factory()


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A file that a committed row holds and did not hold before.

    Args:
        ref: Its receipt.
        field: The column, as ``table.column``; None where a statement wrote several.
    """

    ref: StoredObjectRef
    field: str | None


BeforeUpload: TypeAlias = Callable[[Announcement], object]
"""Decides whether an upload may begin, and refuses it by raising: ``UploadDeniedError``, ``ValidationFailedError``, a
``ValueError`` whose text may be shown, or what the framework answers with. Synchronous ones are called in the backend's
threads, asynchronous ones awaited."""

AfterCommit: TypeAlias = Callable[[Committed], object]
"""Is called after the COMMIT, in the background, once at most. What it raises is logged."""
