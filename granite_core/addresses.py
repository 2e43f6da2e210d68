"""The verbs of a manager that are about addresses: what it gives, and what it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, overload

from granite_core.backends.base import StorageBackend
from granite_core.errors import ConfigurationError, TokenInvalidError
from granite_core.links import Links
from granite_core.policies import Delivery, StoragePolicy
from granite_core.refs import StoredObjectRef
from granite_core.urls import Disposition, FileLink, RowLink, RowTarget, UrlPlan

__all__ = ["Addresses"]


class Addresses(ABC):
    """Base of ``StorageManager``: addresses of files.

    Args:
        links: Makes addresses and reads links.
        now: The clock.
    """

    def __init__(self, links: Links, now: Callable[[], datetime]) -> None:
        self.links: Final = links
        """Makes addresses and reads links; ``links.settings`` are the application's ``UrlSettings``."""
        self.now: Final = now
        """The clock; returns an aware datetime."""

    @abstractmethod
    def policy_of(self, ref: StoredObjectRef) -> StoragePolicy:
        """Return the policy of a ref."""

    @abstractmethod
    def backend_of(self, ref: StoredObjectRef) -> StorageBackend:
        """Return the backend that holds an object."""

    @overload
    def url(
        self,
        file: StoredObjectRef,
        *,
        expires_in: timedelta | None = None,
        disposition: Disposition | None = None,
        filename: str | None = None,
        delivery: Delivery | None = None,
    ) -> str: ...

    @overload
    def url(
        self,
        file: object,
        field: Any,
        *,
        item: StoredObjectRef | None = None,
        expires_in: timedelta | None = None,
        disposition: Disposition | None = None,
    ) -> str: ...

    def url(
        self,
        file: Any,
        field: Any = None,
        *,
        item: StoredObjectRef | None = None,
        expires_in: timedelta | None = None,
        disposition: Disposition | None = None,
        filename: str | None = None,
        delivery: Delivery | None = None,
    ) -> str:
        """Return an address under which whoever has it may have a file.

        ``url(ref)`` is the address of one object, as its policy says:

        - Of a ``public`` policy: one that never ends, for everybody; the CDN's or bucket's where the backend has a
          ``public_url``, else the application's. Another content is another object, and has another address.
        - With ``delivery="redirect"`` or ``"auto"``, and a backend that can: one that the store signs, for a while.
        - Else a sealed link of the application, for a while, on any backend.

        ``url(row, Model.field)`` is a link of the application to whatever the row holds when it is used: it follows a
        file that is replaced, and leads nowhere once the field is empty or the row gone.

        What ends begins at the start of a time bucket (``UrlSettings.bucket``): asked for twice within it, the address
        is the same. Nothing in an address can be changed: what it leads to, name, disposition, end.

        Args:
            file: The file's ref, or a row that was flushed.
            field: The row's file field, ``Document.file`` for instance.
            item: For a field of many files, which one; the link ends when the row holds it no longer.
            expires_in: How long the address lasts at least; by default ``UrlSettings.expires_in``. A public file's
                address ends only where this is given. What the store cannot sign for so long (S3: seven days) is a
                link of the application, which may redirect when it is used.
            disposition: ``"attachment"`` has it saved; ``"auto"`` has safe types shown. By default what the policy
                says.
            filename: The name it is saved under, instead of the one it came with. Not for rows.
            delivery: Instead of the policy's. Not for rows.

        Raises:
            ConfigurationError: No secret is set for links of the application; a lifetime that is none; a field that
                holds no files.
            ValueError: The row has no primary key yet, or ``item`` is missing or too much.
            BackendError: The store's credentials cannot be had.
        """
        if field is not None:
            target = row_target(file, field, item)
            return self.links.row_address(target, now=self.now(), expires_in=expires_in, disposition=disposition)
        plan = self.plan_url(file, expires_in=expires_in, disposition=disposition, filename=filename, delivery=delivery)
        return self.links.carry_out(plan)

    def plan_url(
        self,
        ref: StoredObjectRef,
        *,
        expires_in: timedelta | None = None,
        disposition: Disposition | None = None,
        filename: str | None = None,
        delivery: Delivery | None = None,
    ) -> UrlPlan:
        """Decide what ``url`` would return for an object, and do nothing yet; arguments as there."""
        return self.links.plan(
            ref,
            self.policy_of(ref),
            self.backend_of(ref),
            now=self.now(),
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
            delivery=delivery,
        )

    def plan_redirect(
        self, ref: StoredObjectRef, *, disposition: Disposition | None = None, filename: str | None = None
    ) -> UrlPlan | None:
        """Decide where a client that asks the application for a file can be sent; None where it must be streamed."""
        return self.links.plan_redirect(
            ref,
            self.policy_of(ref),
            self.backend_of(ref),
            now=self.now(),
            disposition=disposition,
            filename=filename,
        )

    def resolve_link(self, token: str) -> FileLink | RowLink:
        """Return what the token of a link of ours leads to.

        Raises:
            TokenInvalidError: It is none of ours, or the file is not public any more, or its backend is gone.
            TokenExpiredError: It was good, and is no longer.
        """
        link = self.links.read(token, self.now())
        if isinstance(link, RowLink):
            return link
        if link.expires is None and not self.policy_of(link.ref).public:
            raise TokenInvalidError("the file is not public any more", operation="open")
        try:
            self.backend_of(link.ref)
        except ConfigurationError as error:
            raise TokenInvalidError("the link leads to a backend that is gone", operation="open") from error
        return link


def row_target(row: object, field: Any, item: StoredObjectRef | None) -> RowTarget:
    """Return how a link names a row's file: its column's type knows, which belongs to the room of SQLAlchemy.

    Raises:
        ConfigurationError: The field holds no files.
        ValueError: See ``Addresses.url``.
    """
    find = getattr(getattr(field, "type", None), "link_target", None)
    if find is None:
        raise ConfigurationError(f"{field} is no file field: url() takes a ref, or a row and its field")
    target: RowTarget = find(row, field, item)
    return target
