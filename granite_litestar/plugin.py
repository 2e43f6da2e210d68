"""Wires Granite into a Litestar application. Wiring only: each thing is made in its own module."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from litestar.dto import dto_field
from litestar.plugins import CLIPlugin, InitPlugin, ReceiveRoutePlugin
from sqlalchemy import inspect
from sqlalchemy.orm import QueryableAttribute

from granite_core import (
    AsyncStorageManager,
    Capability,
    ConfigurationError,
    StagedFile,
    StorageError,
    StorageManager,
    StoredObjectRef,
)
from granite_core.integrations.sqlalchemy import file_columns
from granite_core.logs import describe_error
from granite_core.serving import may_redirect
from granite_litestar._databases import NO_DATABASE, alchemy_configs, find_databases
from granite_litestar._lifespans import InnermostLifespans
from granite_litestar._middleware import compression_opt_key, exempt_from_compression, expose_headers, mark_downloads
from granite_litestar._openapi_uploads import FileSchemaPlugin
from granite_litestar._pathsend import PathSendMiddleware
from granite_litestar._state import MANAGER_STATE_KEY, OFFLOAD_STATE_KEY
from granite_litestar._upload_sessions import UPLOADS_STATE_KEY, UploadSessions
from granite_litestar._views import file_view
from granite_litestar.config import DEFAULT_GC, GraniteConfig
from granite_litestar.dependencies import provide_managers, provide_tokens
from granite_litestar.downloads import build_handlers
from granite_litestar.exceptions import exception_handlers
from granite_litestar.forms import StreamingUploads
from granite_litestar.links import LinkRoute

if TYPE_CHECKING:
    from click import Group
    from litestar import Litestar
    from litestar.config.app import AppConfig
    from litestar.routes import BaseRoute
    from sqlalchemy import MetaData

    from granite_core import StoragePolicy
    from granite_core.gc import Collector, GCConfig
    from granite_litestar.scheduling import CollectorRunner

__all__ = ["GranitePlugin"]

HOOKS_MAY_TAKE: Final = timedelta(seconds=10)
"""How long the end of an application waits for hooks that began after commits."""

logger = logging.getLogger("granite.backends")


class GranitePlugin(InitPlugin, ReceiveRoutePlugin, CLIPlugin):
    """Gives a Litestar application its files: managers, uploads, downloads, the collector, ``litestar granite …``.

    Works beside advanced-alchemy's ``SQLAlchemyPlugin``, in either order.

    Args:
        config: What to set up.
    """

    def __init__(self, config: GraniteConfig) -> None:
        self.config = config
        self.manager = AsyncStorageManager(config.manager)
        self.runner: CollectorRunner | None = None
        """Runs the collector while the application lives; None before, and where it does not collect."""
        self._compression_opt_key = ""
        self._found: Sequence[MetaData] = ()

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Set everything up; what the application has configured itself is kept.

        Raises:
            ConfigurationError: Something cannot work; the message names what to change.
        """
        config = self.config
        if sum(isinstance(plugin, GranitePlugin) for plugin in app_config.plugins) > 1:
            raise ConfigurationError("GranitePlugin is among the plugins twice: one manager can have many policies")
        metadatas = self._found = self._metadatas(app_config)
        _check_fields(metadatas, config.manager)
        _check_delivery(config)
        config.manager.register(*metadatas)
        _protect_columns(metadatas)

        provide_managers(
            app_config,
            (config.manager_dependency_key, config.manager),
            (config.async_manager_dependency_key, self.manager),
        )
        app_config.state[MANAGER_STATE_KEY] = self.manager
        app_config.state[OFFLOAD_STATE_KEY] = config.offload
        app_config.signature_namespace.setdefault("StagedFile", StagedFile)
        app_config.signature_namespace.setdefault("StoredObjectRef", StoredObjectRef)
        app_config.type_encoders = {StoredObjectRef: file_view, **(app_config.type_encoders or {})}
        for error, handler in exception_handlers().items():
            app_config.exception_handlers.setdefault(error, handler)
        app_config.plugins.append(FileSchemaPlugin())
        subject = config.tokens.subject if config.tokens is not None else None
        sessions = UploadSessions(config.manager, config.engines, lambda: self._found, subject)
        app_config.state[UPLOADS_STATE_KEY] = sessions
        app_config.plugins.append(sessions)
        lifespans = InnermostLifespans()
        app_config.plugins.append(lifespans)
        desk = None
        if config.tokens is not None:
            from granite_litestar._token_desk import TokenDesk  # there already, with TokenConfig

            desk = TokenDesk(config.manager, config.tokens, sessions)
        StreamingUploads(self.manager, config.form_limits, config.context, desk).install(app_config)
        if config.pathsend:
            app_config.middleware.insert(0, PathSendMiddleware())

        app_config.on_startup.append(self._check_backends)
        app_config.on_shutdown.append(self._end_hooks)
        if config.manager.has_quotas:
            app_config.on_startup.append(self._check_quotas)
        if desk is not None:
            app_config.on_startup.append(desk.check)
            provide_tokens(app_config, config.tokens_dependency_key, desk)
        self._collect(app_config, metadatas, lifespans)
        lifespans.add(sessions.lifespan)

        exempt_from_compression(app_config)
        expose_headers(app_config)
        self._compression_opt_key = compression_opt_key(app_config)
        app_config.route_handlers.extend(
            build_handlers(config.downloads, self._compression_opt_key, config.manager.policies)
        )
        links = LinkRoute(config.manager, lambda: self._found, config.downloads)
        if (link_handler := links.handler(app_config.path or "/", self._compression_opt_key)) is not None:
            app_config.route_handlers.append(link_handler)
        if config.uploads:
            from granite_litestar._mounting import mount_uploads  # and with it what speaks tus and the rest

            mount_uploads(app_config, config, sessions, desk)
        return app_config

    async def _check_backends(self) -> None:
        """A backend that cannot work stops the application; one that is away at the moment does not."""
        try:
            await self.manager.check()
        except ConfigurationError:
            raise
        except StorageError as error:
            logger.error(  # noqa: TRY400 - no stack needed
                "a storage backend could not be checked: %s",
                describe_error(error),
                extra={"event": "not_checked", "error": error.code},
            )

    def count(self, app: Litestar) -> None:
        """Have what policies with quotas store counted in the application's database, as it does when it starts.

        For commands, scripts and jobs.

        Args:
            app: The application.

        Raises:
            ConfigurationError: There is no database, or it cannot be told which.
        """
        ledger = self.config.quotas
        if ledger is None:
            from granite_core.integrations.sqlalchemy import SQLAlchemyQuotaLedger

            places = find_databases(self.config.engines, self._found, list(alchemy_configs(list(app.plugins))))
            if len({id(engine) for engine, _ in places}) != 1:
                raise ConfigurationError(
                    f"which of {len(places)} databases are quotas counted in? GraniteConfig(quotas="
                    "SQLAlchemyQuotaLedger(engine, Base.metadata))"
                )
            ledger = SQLAlchemyQuotaLedger(*places[0])
        self.config.manager.count_in(ledger)

    async def _check_quotas(self, app: Litestar) -> None:
        """Without the tables that it counts in nothing may start."""
        self.count(app)
        await self.manager.quotas.check()

    async def _end_hooks(self) -> None:
        """Let what hooks do after commits come to its end, for a while."""
        if not await self.manager.wait_for_hooks(HOOKS_MAY_TAKE):
            logger.warning("hooks after commits have not ended yet", extra={"event": "hooks_under_way"})

    def on_cli_init(self, cli: Group) -> None:
        """Add ``litestar granite``."""
        from granite_litestar.cli import granite_group

        cli.add_command(granite_group)

    def make_collector(self, app: Litestar, config: GCConfig | None = None) -> Collector:
        """Return a collector over the same databases and stores as the running application's.

        For commands, scripts and jobs. It works whatever ``GraniteConfig(gc=…)`` says.

        Args:
            app: The application.
            config: Takes the place of ``GraniteConfig(gc=…)``; where both are None it is the default.

        Raises:
            ConfigurationError: There is no database, or it cannot be told which one holds what.
        """
        from granite_core.gc import Collector
        from granite_core.integrations.sqlalchemy import SQLAlchemyLedger

        databases = find_databases(self.config.engines, self._found, list(alchemy_configs(list(app.plugins))))
        return Collector(self.config.manager, SQLAlchemyLedger(databases), config or self.config.gc)

    def receive_route(self, route: BaseRoute) -> None:
        """Keep compression off the application's own handlers that answer with files."""
        redirects = any(may_redirect(policy.delivery) for policy in self.config.manager.policies.values())
        mark_downloads(route, self._compression_opt_key, redirects=redirects)

    def _collect(self, app_config: AppConfig, metadatas: Sequence[MetaData], lifespans: InnermostLifespans) -> None:
        gc, engines = self.config.gc, self.config.engines
        if gc is None:
            return
        if engines or next(alchemy_configs(app_config.plugins), None) is not None:
            from granite_litestar._collection import Collection  # and with it the collector

            def started(runner: CollectorRunner) -> None:
                self.runner = runner

            lifespans.add(Collection(self.config.manager, gc, engines, metadatas, started).lifespan)
        elif gc is not DEFAULT_GC:
            raise ConfigurationError(NO_DATABASE)

    def _metadatas(self, app_config: AppConfig) -> list[MetaData]:
        """Every metadata whose file fields are this manager's, each once."""
        bases: list[Any] = [*self.config.models]
        fields = [getattr(each, "field", None) for each in (*self.config.downloads, *self.config.uploads)]
        mapped = [each for each in fields if isinstance(each, QueryableAttribute)]  # not the name of a form's field
        bases.extend(inspect(each.class_).local_table for each in mapped)
        if not self.config.models:
            bases.extend(each.metadata for each in alchemy_configs(app_config.plugins))
        found = {id(metadata): metadata for base in bases if (metadata := getattr(base, "metadata", base)) is not None}
        return list(found.values())


def _check_fields(metadatas: Sequence[MetaData], manager: StorageManager) -> None:
    for metadata in metadatas:
        for column in file_columns(metadata):
            key = column.type.storage_key  # type: ignore[attr-defined]  # of a file column
            if key is not None and key not in manager.policies:
                raise ConfigurationError(
                    f"{column.table.name}.{column.name} names the policy {key!r}, which the manager does not have; "
                    f"add StoragePolicy({key!r}, …) to it or change the field",
                    field=column.name,
                    value=key,
                )


def _check_delivery(config: GraniteConfig) -> None:
    """Refuse to send clients where they cannot go, and to leave files to whom they cannot be left."""
    policies = config.manager.policies
    wanted = [(f"policy {each.storage_key!r}", each, each.delivery) for each in policies.values()]
    for route in config.downloads:
        policy = policies.get(getattr(route.field.type, "storage_key", None) or "")
        if route.delivery is not None and policy is not None:
            wanted.append((route.path, policy, route.delivery))
    for name, policy, delivery in wanted:
        if delivery == "redirect":
            _check_redirect(name, policy, config)
        elif delivery == "offload":
            _check_offload(name, policy, config)


def _check_redirect(name: str, policy: StoragePolicy, config: GraniteConfig) -> None:
    offered = config.manager.get_backend_for_policy(policy).capabilities
    if Capability.PRESIGNED_GET not in offered and not (policy.public and Capability.PUBLIC_ADDRESS in offered):
        raise ConfigurationError(
            f'{name}: delivery="redirect" needs a backend that signs addresses, and {policy.backend_key!r} does '
            'not: say "auto" to redirect where it can be done and to stream elsewhere',
            value=policy.backend_key,
        )


def _check_offload(name: str, policy: StoragePolicy, config: GraniteConfig) -> None:
    backend = config.manager.get_backend_for_policy(policy)
    if Capability.LOCAL_PATH not in backend.capabilities:
        raise ConfigurationError(
            f'{name}: delivery="offload" needs a backend that keeps files on disk, and {policy.backend_key!r} does '
            'not: say "auto" or "redirect", or give the policy another backend',
            value=policy.backend_key,
        )
    if config.offload is None:
        raise ConfigurationError(
            f'{name}: delivery="offload" needs a web server in front that sends the files: name it with '
            'GraniteConfig(offload=Offload({folder: "/_files"})), or say "auto", which streams where there is none'
        )
    kind, *folders = backend.identity
    if kind == "file" and config.offload.name_of(Path(*folders)) is None:
        raise ConfigurationError(
            f"{name}: the web server has no name for the folder of backend {policy.backend_key!r}: add it to the roots "
            "of GraniteConfig(offload=…)",
            value=policy.backend_key,
        )


def _protect_columns(metadatas: Sequence[MetaData]) -> None:
    """Make file columns read-only in advanced-alchemy's write DTOs: a client must not set a storage key."""
    for metadata in metadatas:
        for column in file_columns(metadata):
            for name, mark in dto_field("read-only").items():
                column.info.setdefault(name, mark)
