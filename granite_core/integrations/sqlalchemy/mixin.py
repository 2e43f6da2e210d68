"""Models with one file and verbs for it, as granite-storage's users know them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Protocol

from sqlalchemy import inspect
from sqlalchemy.orm import InstanceState

from granite_core.aio import AsyncStagedWrite
from granite_core.errors import ConfigurationError, StorageError
from granite_core.integrations.sqlalchemy._greenlet import run_blocking, run_put
from granite_core.integrations.sqlalchemy._storing import identity_text
from granite_core.integrations.sqlalchemy._transaction import Field, fields_by_class
from granite_core.keys import clean_segment
from granite_core.manager import StorageManager
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.sources import UnsavedFile
from granite_core.staging import StagedWrite

if TYPE_CHECKING:
    from granite_core.backends.base import ReadableStream

__all__ = ["ReplaceContentResult", "StoredContentMixin", "UploadedFile"]


class UploadedFile(Protocol):
    """An upload as FastAPI, Starlette and Litestar hand it over."""

    @property
    def file(self) -> Any:
        """The binary stream it was spooled to."""
        ...

    @property
    def filename(self) -> str | None:
        """The name that the client gave."""
        ...

    @property
    def content_type(self) -> str | None:
        """The media type that the client claims."""
        ...


@dataclass(frozen=True, slots=True)
class ReplaceContentResult:
    """What ``replace_content`` did.

    Attributes:
        previous_ref: The ref that the object held before; None where it held none.
        new_ref: The ref that it holds now.
    """

    previous_ref: StoredObjectRef | None
    new_ref: StoredObjectRef


class StoredContentMixin:
    """Verbs for the one file of a mapped class, for those who come from granite-storage.

        class Document(StoredContentMixin, Base):
            __tablename__ = "document"
            __stored_content_field_name__ = "_file_ref"
            __stored_content_storage_key__ = "documents"

            id: Mapped[int] = mapped_column(primary_key=True)
            _file_ref: Mapped[StoredObjectRef | None] = mapped_column(StoredObjectRefType(), nullable=True)

    Bytes are stored by the verb, before the row is written; commit within a quarter of the manager's grace. Until the
    commit nothing is lost: what the row held before stays, and after it the collector takes what no row holds. No verb
    deletes anything.

    Attributes:
        __stored_content_field_name__: Name of the mapped attribute that holds the ref.
        __stored_content_storage_key__: Policy whose rules apply; where absent, that which the column's type names.
        __storage_manager__: The manager; where absent, that of the declarative base.
    """

    __stored_content_field_name__: ClassVar[str]
    __stored_content_storage_key__: ClassVar[str]
    __storage_manager__: ClassVar[StorageManager | None] = None

    @classmethod
    def configure_storage_manager(cls, manager: StorageManager) -> None:
        """Bind a manager to this class and those derived from it, once, where the manager is made."""
        cls.__storage_manager__ = manager

    # -- storing -------------------------------------------------------------------------------------------------------

    def set_content(
        self,
        content: bytes | str,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        storage_key: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> StoredObjectRef:
        """Store bytes, or text as UTF-8, and hold their ref.

        Args:
            content: What to store.
            filename: Name to keep.
            content_type: Media type to believe where the bytes do not show one.
            storage_key: Policy in the place of the class's own.
            extra: JSON-compatible metadata for the ref.
            context: Values for the names in the policy's ``key_template``.

        Raises:
            StorageError: The object has no primary key yet: flush the session first.
            ConfigurationError: There is no manager, or no such policy.
            ContentRejectedError: The policy refuses it.
            BackendError: It cannot be stored; nothing remains.
        """
        if isinstance(content, str):
            content, content_type = content.encode(), content_type or "text/plain"
        write = self._stage(storage_key, filename, content_type, extra, context, expected_size=len(content))
        return self._hold(run_put(write, lambda beneath: beneath.write(content)))

    def set_content_from_stream(
        self,
        stream: ReadableStream,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        storage_key: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> StoredObjectRef:
        """Store a stream, from where it stands to its end, and hold its ref; see ``set_content``.

        The stream is read in pieces and never closed.

        Raises:
            StorageError: As ``set_content``; the object holds what it held.
        """
        write = self._stage(storage_key, filename, content_type, extra, context)
        return self._hold(run_put(write, lambda beneath: beneath.write_from(stream)))

    async def set_content_from_uploadfile(
        self,
        upload_file: UploadedFile,
        *,
        storage_key: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> StoredObjectRef:
        """Store an upload of FastAPI, Starlette or Litestar, from its beginning, and hold its ref.

        Nothing blocks the event loop, and the upload is not closed. See ``set_content``.

        Raises:
            StorageError: As ``set_content``; the object holds what it held.
            TypeError: It is no upload with a ``file``.
        """
        stream: Any = getattr(upload_file, "file", None)
        if not callable(getattr(stream, "read", None)):
            raise TypeError(f"an upload has a binary file, {type(upload_file).__name__} has none")
        write = self._stage(storage_key, upload_file.filename, upload_file.content_type, extra, context)

        def fill(beneath: StagedWrite) -> None:
            stream.seek(0)
            beneath.write_from(stream)

        return self._hold(await AsyncStagedWrite(write).put(fill))

    def replace_content(
        self,
        content: bytes | str,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        storage_key: str | None = None,
        extra: Mapping[str, Any] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> ReplaceContentResult:
        """Do as ``set_content`` does, and tell both refs. The previous object stays until the collector takes it.

        Raises:
            StorageError: As ``set_content``; the object holds what it held.
        """
        previous = self._get_existing_ref()
        new = self.set_content(
            content,
            filename=filename,
            content_type=content_type,
            storage_key=storage_key,
            extra=extra,
            context=context,
        )
        return ReplaceContentResult(previous, new)

    def clear_content_reference(self) -> StoredObjectRef | None:
        """Hold no file, and return the ref that was held. The object stays until the collector takes it."""
        previous = self._get_existing_ref()
        self._set_ref(None)
        return previous

    # -- reading -------------------------------------------------------------------------------------------------------

    def get_content(self) -> bytes | None:
        """Return the whole content; None where there is no file. Meant for small ones.

        Raises:
            StorageError: It is content that the next flush stores.
            ObjectNotFoundError: The object is gone.
            BackendError: It cannot be read.
        """
        if (ref := self._to_read()) is None:
            return None
        if (text := ref.inline_text) is not None:
            return text.encode()
        manager = self._require_storage_manager()
        return run_blocking(manager.backend_of(ref), manager.get, ref)

    def get_content_text(self, encoding: str = "utf-8") -> str | None:
        """Return the whole content as text; None where there is no file.

        Raises:
            UnicodeDecodeError: The content is no text in that encoding.
            ObjectNotFoundError: The object is gone.
            BackendError: It cannot be read.
        """
        content = self.get_content()
        return None if content is None else content.decode(encoding)

    def open_content(self) -> BinaryIO | None:
        """Open the content as a seekable binary file; None where there is no file.

        Raises:
            ObjectNotFoundError: The object is gone.
            BackendError: It cannot be opened.
        """
        if (ref := self._to_read()) is None:
            return None
        if (text := ref.inline_text) is not None:
            return io.BytesIO(text.encode())
        manager = self._require_storage_manager()
        return run_blocking(manager.backend_of(ref), manager.open, ref)

    # -- beneath -------------------------------------------------------------------------------------------------------

    def _require_storage_manager(self) -> StorageManager:
        field = self._field()
        manager = type(self).__storage_manager__ if field is None else field.bound_manager
        if manager is None:
            name = type(self).__name__
            raise ConfigurationError(
                f"Storage manager not configured for {name}: call {name}.configure_storage_manager(manager), or "
                "manager.register(Base), once, where the manager is made"
            )
        return manager

    def _get_existing_ref(self) -> StoredObjectRef | None:
        held = getattr(self, self._field_name(), None)
        return held if isinstance(held, StoredObjectRef) else None

    def _to_read(self) -> StoredObjectRef | None:
        if isinstance(getattr(self, self._field_name(), None), UnsavedFile):
            raise StorageError("the content is stored by the next flush: flush the session first", operation="open")
        return self._get_existing_ref()

    def _set_ref(self, ref: StoredObjectRef | None) -> None:
        state = inspect(self, raiseerr=False)
        before = state.dict.get(self._field_name()) if isinstance(state, InstanceState) else None
        if isinstance(before, StagedFile) and not before.kept:
            # Stored, and let go before any flush saw it: there is no row that could leave a tombstone.
            self._require_storage_manager().note([before])
        setattr(self, self._field_name(), ref)

    def _hold(self, ref: StagedFile) -> StagedFile:
        self._set_ref(ref)
        return ref

    def _stage(
        self,
        storage_key: str | None,
        filename: str | None,
        content_type: str | None,
        extra: Mapping[str, Any] | None,
        context: Mapping[str, str] | None,
        *,
        expected_size: int | None = None,
    ) -> StagedWrite:
        manager, field, identity = self._require_storage_manager(), self._field_name(), self._identity()
        if identity is None:
            raise StorageError(
                f"{type(self).__name__} must have an id before its content is stored: call session.flush() first, or "
                f"give the object its primary key; or assign unsaved(…) to {field}: the flush stores it",
                operation="put",
                field=field,
            )
        return manager.stage(
            storage_key or self._storage_key(),
            filename=filename,
            content_type=content_type,
            field=field,
            expected_size=expected_size,
            model_name=clean_segment(getattr(type(self), "__tablename__", None) or type(self).__name__.lower()),
            entity_id=identity,
            field_name=clean_segment(field.lstrip("_")),
            extra=extra,
            context=context,
        )

    def _identity(self) -> str | None:
        state = inspect(self, raiseerr=False)
        if isinstance(state, InstanceState):
            return identity_text(self)
        plain = getattr(self, "id", None)
        return None if plain is None else clean_segment(plain)

    def _field_name(self) -> str:
        return self._declared("__stored_content_field_name__", "which attribute holds its ref", "_file_ref")

    def _storage_key(self) -> str:
        field = self._field()
        named = None if field is None else field.storage_key
        return named or self._declared("__stored_content_storage_key__", "which policy applies to it", "documents")

    def _field(self) -> Field | None:
        name = self._field_name()
        return next((each for each in fields_by_class.get(type(self), ()) if each.key == name), None)

    def _declared(self, attribute: str, what: str, example: str) -> str:
        value = getattr(type(self), attribute, None)
        if not isinstance(value, str):
            raise ConfigurationError(f'{type(self).__name__} must say {what}: {attribute} = "{example}"')
        return value
