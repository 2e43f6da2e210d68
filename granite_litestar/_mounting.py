"""Adds the routes of uploads to an application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from granite_litestar._uploads_for import uploads_for
from granite_litestar.direct import DirectUploads, mount_direct_uploads
from granite_litestar.resumable import ResumableUploads, mount_resumable_uploads
from granite_litestar.staged_uploads import StagedUploads, build_staged_handlers
from granite_litestar.upload_routes import UploadRoute, build_upload_handlers

if TYPE_CHECKING:
    from litestar.config.app import AppConfig

    from granite_litestar._token_desk import TokenDesk
    from granite_litestar._upload_sessions import UploadSessions
    from granite_litestar.config import GraniteConfig

__all__ = ["mount_uploads"]


def mount_uploads(
    app_config: AppConfig, config: GraniteConfig, sessions: UploadSessions, desk: TokenDesk | None
) -> None:
    """Add the routes of uploads, each kind in its way.

    Args:
        app_config: Of the application being built.
        config: What its plugin sets up.
        sessions: The application's upload sessions.
        desk: The application's tokens, where it has any.

    Raises:
        ConfigurationError: A route cannot work, or two have one name.
    """
    into_rows = [each for each in config.uploads if isinstance(each, UploadRoute)]
    app_config.route_handlers.extend(build_upload_handlers(into_rows))
    staged = [each for each in config.uploads if isinstance(each, StagedUploads)]
    app_config.route_handlers.extend(build_staged_handlers(staged, desk))
    resumable = [each for each in config.uploads if isinstance(each, ResumableUploads)]
    mount_resumable_uploads(
        app_config, config, resumable, lambda route: uploads_for(sessions, route.storage_key, route.settings)
    )
    direct = [each for each in config.uploads if isinstance(each, DirectUploads)]
    mount_direct_uploads(
        app_config, config, direct, lambda route: uploads_for(sessions, route.storage_key, route.settings)
    )
