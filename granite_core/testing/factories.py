"""Files in polyfactory's factories. Needs polyfactory, which Litestar brings along.

``register()`` teaches all factories what a ``StoredObjectRef`` is. For SQLAlchemy models take ``FileModelFactory``
for the base: it knows lists of files too, and the policy of each column.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, Generic, TypeVar

from polyfactory.factories.base import BaseFactory
from polyfactory.factories.sqlalchemy_factory import SQLAlchemyFactory
from sqlalchemy import Column

from granite_core.integrations.sqlalchemy import StoredObjectRefListType, is_file_column
from granite_core.manager import StorageManager
from granite_core.refs import StagedFile, StoredObjectRef
from granite_core.testing.samples import Kind, make_ref, make_upload, put_sample

__all__ = ["FileModelFactory", "StoredObjectRefProvider", "register"]

T = TypeVar("T")

DEFAULT_KEY: Final = "documents"
"""The policy of refs whose column names none."""


class StoredObjectRefProvider:
    """Makes refs for factories.

    Args:
        manager: Stores a sample for each; None for refs with nothing behind them. It may be a function that returns
            the manager, for one that is not there yet.
        kind: What the files are.
        storage_key: Policy of the files where no column names one.
        upload: Further arguments of ``make_upload``, ``size`` for instance.
    """

    def __init__(
        self,
        manager: StorageManager | Callable[[], StorageManager] | None = None,
        *,
        kind: Kind = "text",
        storage_key: str = DEFAULT_KEY,
        **upload: Any,
    ) -> None:
        make_upload(kind, **upload)  # what cannot be made is told here
        self._manager = manager
        self._kind: Final[Kind] = kind
        self._storage_key = storage_key
        self._upload = upload

    @property
    def stores(self) -> bool:
        """Whether there are bytes behind the refs."""
        return self._manager is not None

    def __call__(self, storage_key: str | None = None) -> StoredObjectRef:
        """Return a new ref.

        Args:
            storage_key: Policy of the file; the provider's where absent.
        """
        key = storage_key or self._storage_key
        if self._manager is not None:
            manager = self._manager if isinstance(self._manager, StorageManager) else self._manager()
            return put_sample(manager, key, self._kind, **self._upload)
        name, content, _ = make_upload(self._kind, **self._upload)
        return make_ref(key, self._kind, filename=name, content=content)


def register(provider: StoredObjectRefProvider | None = None) -> None:
    """Teach every factory of polyfactory what a ``StoredObjectRef`` is, and a ``StagedFile`` where they are stored.

    Args:
        provider: Makes them; by default refs with nothing behind them.
    """
    provider = provider or StoredObjectRefProvider()
    BaseFactory.add_provider(StoredObjectRef, provider)
    if provider.stores:
        BaseFactory.add_provider(StagedFile, provider)


class FileModelFactory(SQLAlchemyFactory[T], Generic[T]):
    """A base for the factories of SQLAlchemy models with file fields.

    Example::

        class DocumentFactory(FileModelFactory[Document]):
            __files__ = StoredObjectRefProvider(manager, kind="pdf")

    Attributes:
        __files__: Makes the files of all fields, each under its column's policy.
    """

    __is_base_factory__ = True
    __files__: ClassVar[StoredObjectRefProvider] = StoredObjectRefProvider()

    @classmethod
    def get_type_from_column(cls, column: Column[Any]) -> Any:
        """Tell files apart by their policies; leave every other column to polyfactory."""
        if not is_file_column(column):
            return super().get_type_from_column(column)
        each: Any = _ref_type(getattr(column.type, "storage_key", None))
        annotation = list[each] if isinstance(column.type, StoredObjectRefListType) else each
        return annotation | None if column.nullable else annotation

    @classmethod
    def get_provider_map(cls) -> dict[Any, Callable[[], Any]]:
        """Add one provider for each policy."""
        ours = {each: partial(cls.__files__, key) for key, each in _REF_TYPES.items()}
        return {**super().get_provider_map(), StoredObjectRef: cls.__files__, **ours}


_REF_TYPES: Final[dict[str | None, type]] = {}


def _ref_type(storage_key: str | None) -> type:
    """A type that stands for the refs of one policy: polyfactory finds providers by type."""
    if storage_key not in _REF_TYPES:
        _REF_TYPES[storage_key] = type(f"StoredObjectRef_{storage_key}", (), {})
    return _REF_TYPES[storage_key]
