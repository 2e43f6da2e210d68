"""A job of a queue that collects for an application, in place of its own workers (``GraniteConfig(gc=None)``)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from litestar import Litestar

from granite_core import CollectionRefusedError
from granite_litestar import GranitePlugin


async def collect(app: Litestar) -> dict[str, Any]:
    collector = app.plugins.get(GranitePlugin).make_collector(app)
    try:
        swept = await collector.asweep(wait=timedelta(minutes=1))
        reconciled = await collector.areconcile(not_within=timedelta(hours=20))
    except CollectionRefusedError as error:
        return {"refused": str(error)}  # it says what to do: tell somebody
    return {"deleted": swept.deleted, "failed": swept.failed, "noted": reconciled.noted}
