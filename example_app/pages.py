"""Files of the page, and the headers they go out with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litestar import Response, get

__all__ = ["PAGE", "PAGE_HEADERS", "page_file"]

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_file(file: Path, media_type: str, path: str | None = None) -> Any:
    """A route for a file of the page, under its name where no other path is given."""
    content = file.read_bytes()

    @get(path or f"/{file.name}", name=file.name, include_in_schema=False, media_type=media_type, sync_to_thread=False)
    def serve() -> Response[bytes]:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return serve
