"""Direct uploads: routes by which a client is told how to send a file to the store itself, and has it taken over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import HTTPException, ImproperlyConfiguredException

from granite_core import ConfigurationError, StagedFile
from granite_core.uploads import (
    AsyncUploads,
    DirectInstructions,
    DirectSettings,
    UploadSettings,
)
from granite_litestar._direct_routes import AnyRequest, NewDirectUpload, Routes
from granite_litestar._subjects import Subject
from granite_litestar._upload_mounts import prepared

if TYPE_CHECKING:
    from litestar.config.app import AppConfig
    from litestar.openapi.spec import SecurityRequirement
    from litestar.types import Guard

    from granite_litestar._streaming import UploadContext
    from granite_litestar.config import GraniteConfig

__all__ = [
    "DirectUploads",
    "NewDirectUpload",
    "begin_direct_form",
    "complete_direct_upload",
    "mount_direct_uploads",
]

_STATE_KEY: Final = "granite_direct_uploads"
"""Key in ``app.state`` of what is mounted, by its path."""


@dataclass(frozen=True)
class DirectUploads:
    """Routes for uploads whose bytes go to the store itself, past the application.

    ``POST path`` begins one, and tells which requests send its bytes; ``GET path/{id}`` tells them again, and those for
    further parts (``?first=101``); ``POST path/{id}/complete`` has the application copy, measure and judge what was
    sent, and answers with a token as other uploads do; ``DELETE path/{id}`` gives up. On stores that take no requests
    of others the bytes go to ``path/bytes/…``, and a client sees no difference.

    Args:
        path: Where uploads are begun. It may have parameters; an upload is known only under the path it was begun at.
        storage_key: The policy whose rules apply: size, types, validators, hooks.
        guards: Litestar's guards.
        public: Says that everybody may upload. Without it, guards are needed.
        subject: Called with the connection; returns to whom an upload belongs, text or what ``str`` makes one of, None
            for nobody. Another one's upload is not found, and its token is good for nobody else. In place of
            ``TokenConfig(subject=…)``; without either, whoever knows an upload's id may go on with it. More than 255
            characters are answered with 400.
        settings: How long things may take.
        direct: How bytes are sent: when in parts, how long the signed requests are good.
        context: Called with the connection of what begins an upload; returns values for the names in the policy's
            ``key_template``. In place of ``GraniteConfig(context=…)``.
        form_redirect: Address of a page that browsers are sent to when a plain form has sent its file; ``?upload=`` and
            the id are added. Absolute, as stores want it. Without it the answer to a form is 204.
        name: The handlers' name, for ``route_reverse``; by default ``direct:`` and the path.
        security: What the API's description says of how to authenticate: nothing can be read from guards.
        raises: What the guards raise, for the API's description; 403 by default.
        tags: Tags of the API's description.
        include_in_schema: Whether the API's description tells of these routes.

    Raises:
        ConfigurationError: Nothing says who may upload.
    """

    path: str
    _: KW_ONLY
    storage_key: str
    guards: Sequence[Guard] = ()
    public: bool = False
    subject: Subject | None = None
    settings: UploadSettings = field(default_factory=UploadSettings)
    direct: DirectSettings = field(default_factory=DirectSettings)
    context: UploadContext | None = None
    form_redirect: str | None = None
    name: str | None = None
    security: Sequence[SecurityRequirement] | None = None
    raises: Sequence[type[HTTPException]] = ()
    tags: Sequence[str] | None = None
    include_in_schema: bool = True

    def __post_init__(self) -> None:
        if not self.guards and not self.public:
            raise ConfigurationError(
                f"{self.path}: who may upload? Give guards=[…], or public=True where everybody may"
            )
        if self.form_redirect is not None and not self.form_redirect.startswith(("https://", "http://")):
            raise ConfigurationError(
                f"{self.path}: form_redirect must be an absolute address", value=self.form_redirect
            )


async def begin_direct_form(
    request: AnyRequest, path: str, *, filename: str | None = None, content_type: str | None = None
) -> DirectInstructions:
    """Begin an upload that a plain form is to send, for the page that shows the form.

    The page puts the ``fields`` of ``request`` into hidden inputs, before a file input called ``file``, and posts them
    to its ``url`` as ``multipart/form-data``; so the store, or the application in its place, takes the file.

    Args:
        request: The page's request: tells whom the upload belongs to.
        path: Of the ``DirectUploads`` whose rules apply. Parameters in it are taken from the page's own path.
        filename: Name of the file; the store does not tell that of the one it took.
        content_type: Media type the file will claim; believed only where the bytes do not tell.

    Raises:
        ContentRejectedError: A hook of the policy refuses it.
        ImproperlyConfiguredException: Nothing is mounted there.
        BackendError: It cannot be begun now.
    """
    return await _routes_at(request, path).begun(request, filename=filename, content_type=content_type, form=True)


async def complete_direct_upload(request: AnyRequest, path: str, upload_id: str) -> StagedFile:
    """Have an upload taken over, for the page that a form led to; return its file, to be assigned to a field.

    Args:
        request: The page's request; of whom the upload belongs to.
        path: Of the ``DirectUploads`` that it was begun with. Parameters in it are taken from the page's own path.
        upload_id: What came as ``?upload=``.

    Raises:
        StorageError: As ``Direct.complete``.
        ImproperlyConfiguredException: Nothing is mounted there.
    """
    return (await _routes_at(request, path).completed(request, upload_id))[1]


def _routes_at(request: AnyRequest, path: str) -> Routes:
    found: Any = request.app.state.get(_STATE_KEY, {}).get(path)
    if not isinstance(found, Routes):
        raise ImproperlyConfiguredException(f"no DirectUploads({path!r}) is mounted")
    return found


def mount_direct_uploads(
    app_config: AppConfig,
    config: GraniteConfig,
    routes: Iterable[DirectUploads],
    provider: Callable[[DirectUploads], AsyncUploads],
) -> None:
    """Add direct uploads to an application.

    Args:
        app_config: Of the application being built.
        config: What its plugin sets up.
        routes: The uploads.
        provider: Gives a route its uploads, once the application runs.

    Raises:
        ConfigurationError: A policy is not there, or nothing seals tokens.
    """
    mounted = {
        route.path: Routes(route, config.manager.get_policy(route.storage_key), partial(provider, route))
        for route in prepared(routes, config, "direct uploads")
    }
    app_config.state[_STATE_KEY] = mounted
    for each in mounted.values():
        app_config.route_handlers.extend(each.handlers())
