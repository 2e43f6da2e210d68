"""How an application is given its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from granite_core import ConfigurationError, Offload, StorageManager
from granite_core.gc import GCConfig
from granite_litestar.multipart import FormLimits

if TYPE_CHECKING:
    from sqlalchemy import Engine, MetaData
    from sqlalchemy.ext.asyncio import AsyncEngine

    from granite_core.integrations.sqlalchemy import SQLAlchemyQuotaLedger
    from granite_litestar._streaming import UploadContext
    from granite_litestar._token_desk import TokenConfig
    from granite_litestar.direct import DirectUploads
    from granite_litestar.downloads import FileRoute
    from granite_litestar.resumable import ResumableUploads
    from granite_litestar.staged_uploads import StagedUploads
    from granite_litestar.upload_routes import UploadRoute

__all__ = ["DEFAULT_GC", "GraniteConfig"]

AnyEngine: TypeAlias = "Engine | AsyncEngine"

DEFAULT_GC: Final = GCConfig()


@dataclass
class GraniteConfig:
    """What ``GranitePlugin`` sets up.

    Args:
        manager: Stores, opens and deletes; made by the application.
        downloads: The routes that serve files.
        uploads: The routes that put a raw body into a row, those of uploads that come in several requests, those
            that store a file for a form to come, and those of uploads that go to the store itself.
        tokens: How tokens are given for files that wait for a form, and whom they belong to; None where there are none.
        gc: How the collector works in this application's workers; None where another process collects.
        engines: Databases the collector works in, as ``engine`` or ``(engine, metadata)``; by default those of
            ``SQLAlchemyPlugin``. A tenant's schema is an engine with a ``schema_translate_map``.
        quotas: Where what policies with quotas store is counted; by default in the one database that there is. It must
            be among those that the collector works in.
        models: Declarative bases or ``MetaData`` whose file fields use ``manager``; by default those of
            ``SQLAlchemyPlugin``, of ``downloads`` and of ``uploads``.
        manager_dependency_key: Name under which handlers get the ``StorageManager``.
        async_manager_dependency_key: Name under which handlers get the ``AsyncStorageManager``.
        tokens_dependency_key: Name under which handlers get the ``RequestTokens``, where there are tokens.
        form_limits: What upload forms may cost beside their files.
        offload: The web server that stands in front of the application, and sends the files of policies with
            ``delivery="offload"`` or ``"auto"``. Only where it does so for every request; see ``Offload``.
        pathsend: Whether whole files on disk are left to the application's own server to send, where it offers ASGI's
            extension ``http.response.pathsend`` (granian). Say False where something is wrapped around the whole
            application that has to see every byte.
        context: Called with the connection of each upload, after its guards and before the first byte is read; returns
            values for the names in policies' ``key_template``: ``{"tenant": …}``. Asynchronous, or quick: it is called
            on the event loop. It may raise Litestar's ``HTTPException`` to refuse the upload.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    manager: StorageManager
    downloads: Sequence[FileRoute] = ()
    uploads: Sequence[UploadRoute | ResumableUploads | StagedUploads | DirectUploads] = ()
    tokens: TokenConfig | None = None
    gc: GCConfig | None = DEFAULT_GC
    engines: Sequence[AnyEngine | tuple[AnyEngine, MetaData]] = ()
    quotas: SQLAlchemyQuotaLedger | None = None
    models: Sequence[Any] = ()
    manager_dependency_key: str = "storage"
    async_manager_dependency_key: str = "files"
    tokens_dependency_key: str = "file_tokens"
    form_limits: FormLimits = field(default_factory=FormLimits)
    context: UploadContext | None = None
    offload: Offload | None = None
    pathsend: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.manager, StorageManager):
            raise ConfigurationError(
                f"GraniteConfig(manager=…) takes a StorageManager, not {type(self.manager).__name__}; the asynchronous "
                "one is made from it"
            )
        for name in (self.manager_dependency_key, self.async_manager_dependency_key, self.tokens_dependency_key):
            if not name.isidentifier():
                raise ConfigurationError(f"a dependency key must be a Python name, not {name!r}", value=name)
        if self.manager_dependency_key == self.async_manager_dependency_key:
            raise ConfigurationError(
                f"both managers are to be the dependency {self.manager_dependency_key!r}: give them two names"
            )
