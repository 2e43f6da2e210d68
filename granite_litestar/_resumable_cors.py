"""Pages of other origins and resumable uploads: what is said to them of these routes, and of no other.

A ``CORSConfig`` of the application's answers for every path alike, and before any route is found. What uploads need is
therefore said last, when an answer about one of them is on its way out; the configuration stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from litestar.utils import normalize_path

from granite_core import ConfigurationError
from granite_litestar._resumable_desk import TOKEN_HEADER

if TYPE_CHECKING:
    from litestar.config.cors import CORSConfig
    from litestar.types import HTTPScope, Message, Scope

    from granite_litestar.resumable import ResumableUploads

__all__ = ["CrossOrigin", "check_origins"]

METHODS: Final = ("POST", "HEAD", "PATCH", "DELETE", "OPTIONS")
EXPOSED: Final = (
    *("Location", "Tus-Version", "Tus-Resumable", "Tus-Max-Size", "Tus-Extension", "Tus-Checksum-Algorithm"),
    *("Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Metadata", "Upload-Expires", "Upload-Concat"),
    *("Upload-Complete", "Upload-Limit", TOKEN_HEADER),
)
SENT: Final = (
    *("Authorization", "Content-Type", "Tus-Resumable", "Upload-Offset", "Upload-Length", "Upload-Defer-Length"),
    *("Upload-Metadata", "Upload-Concat", "Upload-Checksum", "X-HTTP-Method-Override", "X-Requested-With"),
    *("Upload-Complete", "Upload-Draft-Interop-Version", "Content-Disposition", "Content-Digest", "Repr-Digest"),
)
MAX_AGE: Final = 86400
"""For so many seconds a browser may rely on what it was told, where the application says nothing else."""

_ORIGIN: Final = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[^/\s*:\[\]]+)(?::[0-9]+)?")
_ID: Final = "[a-z2-7]{26}"
"""An upload's id, and no other name beside it: the application may have routes of its own there."""
_PARAMETER: Final = re.compile(r"\{[^}]*\}")


class CrossOrigin:
    """Answers pages of other origins about the uploads of an application.

    Where a route names origins, those may upload, and no other. Where it names none, those of the ``CORSConfig`` may.

    Args:
        routes: The application's resumable uploads.
        prefix: The application's own path.
        config: The application's ``CORSConfig``, where it has one.
        describe: Returns what ``OPTIONS`` says, by the route and whether one upload is asked about.
    """

    def __init__(
        self,
        routes: Iterable[ResumableUploads],
        prefix: str,
        config: CORSConfig | None,
        describe: Callable[[ResumableUploads, bool], Mapping[str, str]],
    ) -> None:
        self._config = config
        self._describe = describe
        self._places = [(_pattern(prefix, each.path), each) for each in routes if each.allow_origins or config]

    def __bool__(self) -> bool:
        """Whether there is anything to say."""
        return bool(self._places)

    async def before_send(self, message: Message, scope: Scope) -> None:
        """Change an answer on its way out, where it is about uploads and goes to a page of another origin.

        Args:
            message: The answer; changed.
            scope: The connection.
        """
        # Every message of the application comes by: what is of no concern leaves quickly.
        kind = message["type"]
        if kind not in ("http.response.start", "http.response.body"):
            return
        request = cast("HTTPScope", scope)
        is_options = request["method"] == "OPTIONS"
        if kind == "http.response.body" and not is_options:
            return
        if (place := self._place(request)) is None:
            return
        asked = {name.decode("latin-1"): value.decode("latin-1") for name, value in request["headers"]}
        if "origin" not in asked:
            return
        if message["type"] == "http.response.body":
            message["body"] = b""  # of whoever answered the preflight for all routes alike
        elif message["type"] == "http.response.start":
            route, on_one = place
            granted = self._granted(asked["origin"], route, "cookie" in asked)
            if is_options:
                message["status"] = 204
                allowed = self._preflight(route, asked) if granted else {}
                said = [*{**self._describe(route, on_one), **allowed, **granted, "Vary": "Origin"}.items()]
            else:
                said = self._told(message["headers"], granted)
            message["headers"] = [(name.lower().encode(), value.encode("latin-1")) for name, value in said]

    def _told(self, headers: Iterable[tuple[bytes, bytes]], granted: Mapping[str, str]) -> list[tuple[str, str]]:
        """What an answer said, with what is said of origins in place of what was."""
        fields = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
        told = [each for each in fields if not each[0].startswith("access-control-")]
        if not any(name == "vary" and "origin" in value.lower() for name, value in told):
            told.append(("Vary", "Origin"))
        if granted:
            exposed = _union(EXPOSED, () if self._config is None else self._config.expose_headers)
            told.append(("Access-Control-Expose-Headers", ", ".join(exposed)))
        return [*told, *granted.items()]

    def _place(self, scope: HTTPScope) -> tuple[ResumableUploads, bool] | None:
        path = scope["path"]
        if "route_handler" not in scope and (root := scope.get("root_path", "")):
            path = path.split(root, maxsplit=1)[-1]  # what Litestar does once it looks for the route
        path = normalize_path(path).rstrip("/")
        for pattern, route in self._places:
            if (found := pattern.fullmatch(path)) is not None:
                return route, found["upload"] is not None
        return None

    def _granted(self, origin: str, route: ResumableUploads, has_cookie: bool) -> dict[str, str]:
        """Whether an origin may read the answer, as headers; none where it may not."""
        config = self._config
        trusted = config is not None and not config.is_allow_all_origins and config.is_origin_allowed(origin)
        if "*" in route.allow_origins:
            allowed = origin if trusted else "*"
        elif route.allow_origins:
            if origin not in route.allow_origins:
                return {}
            allowed = origin
        elif config is not None and config.is_allow_all_origins:
            trusted, allowed = True, origin if has_cookie else "*"  # as Litestar answers elsewhere
        elif trusted:
            allowed = origin
        else:
            return {}
        granted = {"Access-Control-Allow-Origin": allowed}
        if config is not None and trusted and config.allow_credentials:
            granted["Access-Control-Allow-Credentials"] = "true"
        return granted

    def _preflight(self, route: ResumableUploads, asked: Mapping[str, str]) -> dict[str, str]:
        config = self._config
        sent: Iterable[str] = filter(None, asked.get("access-control-request-headers", "").replace(" ", "").split(","))
        if config is not None and not config.is_allow_all_headers:
            sent = config.allow_headers
        return {
            "Access-Control-Allow-Methods": ", ".join(METHODS),
            "Access-Control-Allow-Headers": ", ".join(_union(SENT, sent)),
            "Access-Control-Max-Age": str(MAX_AGE if config is None else config.max_age),
        }


def check_origins(path: str, origins: Sequence[str]) -> None:
    """Refuse what is no origin as browsers send it, and so would allow none, or too many.

    Args:
        path: Of the route.
        origins: What it was given.

    Raises:
        ConfigurationError: It is a text, or one of them is no origin.
    """
    wrong = (
        origins if isinstance(origins, str) else next((each for each in origins if not _ORIGIN.fullmatch(each)), None)
    )
    if wrong is not None:
        raise ConfigurationError(
            f'{path}: allow_origins lists origins, as "https://studio.example" or "*" for all, not {wrong!r}',
            field="allow_origins",
            value=wrong,
        )


def _pattern(prefix: str, path: str) -> re.Pattern[str]:
    """Of the paths of a route: where uploads are made, and below it, in the group ``upload``, each."""
    whole = f"{prefix.rstrip('/')}/{path.strip('/')}".rstrip("/")
    literal = (re.escape(each) for each in _PARAMETER.split(whole))
    return re.compile("[^/]+".join(literal) + f"(?P<upload>/{_ID})?")


def _union(first: Iterable[str], second: Iterable[str]) -> list[str]:
    known = list(first)
    there = {each.lower() for each in known}
    return [*known, *(each for each in second if each.lower() not in there)]
