"""What the application's own middleware must be told about responses that are files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from litestar.handlers import HTTPRouteHandler

from granite_core.serving import EXPOSED_HEADERS
from granite_litestar.openapi import DownloadOperation, describe_download
from granite_litestar.responses import FileDownload

if TYPE_CHECKING:
    from litestar.config.app import AppConfig
    from litestar.middleware.compression import CompressionMiddleware
    from litestar.routes import BaseRoute
    from litestar.types import Message, Scope, Send

__all__ = [
    "DEFAULT_COMPRESSION_OPT_KEY",
    "compression_opt_key",
    "exempt_from_compression",
    "expose_headers",
    "mark_downloads",
]

DEFAULT_COMPRESSION_OPT_KEY: Final = "exclude_from_compression"
"""Handlers with this in their ``opt`` are not compressed, where the application names no key of its own."""


def exempt_from_compression(app_config: AppConfig) -> None:
    """Keep the application's compression away from files: a gzipped 206 is corrupt, an ETag over gzip wrong.

    Handlers that are known to return files are skipped by their ``opt``. For those that nobody can know of, because
    their return type does not say so, the middleware also lets everything pass that offers byte ranges. The
    configuration is copied, not changed: applications share it.

    Args:
        app_config: Of the application being built.
    """
    config = app_config.compression_config
    if config is None:
        return
    app_config.compression_config = replace(
        config,
        exclude_opt_key=config.exclude_opt_key or DEFAULT_COMPRESSION_OPT_KEY,
        middleware_class=_sparing_byte_ranges(config.middleware_class),
    )


def compression_opt_key(app_config: AppConfig) -> str:
    """The key in a handler's ``opt`` that keeps it from being compressed."""
    config = app_config.compression_config
    return (config.exclude_opt_key if config else None) or DEFAULT_COMPRESSION_OPT_KEY


def expose_headers(app_config: AppConfig) -> None:
    """Let scripts of the origins that CORS admits read the headers that ranges, names and validators come in.

    Args:
        app_config: Of the application being built; without a CORS configuration nothing happens.
    """
    config = app_config.cors_config
    if config is None:
        return
    known = {name.lower() for name in config.expose_headers}
    if "*" in known and not config.allow_credentials:
        return
    missing = [name for name in EXPOSED_HEADERS if name.lower() not in known]
    app_config.cors_config = replace(config, expose_headers=[*config.expose_headers, *missing])


def mark_downloads(route: BaseRoute, opt_key: str, *, redirects: bool = False) -> None:
    """Mark the handlers of a route whose return type says that they return files.

    They are not compressed, and the API's description tells of ranges and validators. Idempotent.

    Args:
        route: As ``ReceiveRoutePlugin.receive_route`` gets it.
        opt_key: What `compression_opt_key` answered.
        redirects: Whether there are files that clients are sent to the store for.
    """
    for handler in getattr(route, "route_handlers", ()):
        if not isinstance(handler, HTTPRouteHandler):
            continue
        returned = handler.parsed_fn_signature.return_type
        one_of_several = any(each.is_subclass_of(FileDownload) for each in returned.inner_types)
        marked = issubclass(handler.operation_class, DownloadOperation)
        if one_of_several or marked or returned.is_subclass_of(FileDownload):
            handler.opt.setdefault(opt_key, True)
            other = str(getattr(handler.media_type, "value", handler.media_type)) or "application/json"
            beside = other if one_of_several or marked else None
            describe_download(handler, beside=beside, redirects=redirects)


def _sparing_byte_ranges(base: type[CompressionMiddleware]) -> type[CompressionMiddleware]:
    class ByteRangeSparingMiddleware(base):  # type: ignore[misc, valid-type]  # a class known when it runs
        """The application's compression, except for responses that offer byte ranges."""

        def create_compression_send_wrapper(self, send: Send, compression_encoding: Any, scope: Scope) -> Send:
            compress: Send = super().create_compression_send_wrapper(
                send=send, compression_encoding=compression_encoding, scope=scope
            )
            forward = compress

            async def send_wrapper(message: Message) -> None:
                nonlocal forward
                if message["type"] == "http.response.start":
                    headers = {(name.lower(), value.lower()) for name, value in message.get("headers", ())}
                    forward = send if (b"accept-ranges", b"bytes") in headers else compress
                await forward(message)

            return send_wrapper

    return ByteRangeSparingMiddleware
