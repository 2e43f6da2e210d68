"""Blocking calls from code that SQLAlchemy may run in a greenlet of an event loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqlalchemy.util import await_only

from granite_core.aio import hop
from granite_core.backends.base import StorageBackend

__all__ = ["in_greenlet", "run_blocking"]

P = ParamSpec("P")
T = TypeVar("T")


def in_greenlet() -> bool:
    """Tell whether SQLAlchemy runs this code in a greenlet, so that ``await_only`` works."""
    greenlet = sys.modules.get("greenlet")  # optional: SQLAlchemy imports it for its asyncio extension only
    return greenlet is not None and hasattr(greenlet.getcurrent(), "__sqlalchemy_greenlet_provider__")


def run_blocking(backend: StorageBackend, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a call that blocks on a backend: in the backend's threads where there is an event loop beneath, else here."""
    if in_greenlet():
        return await_only(hop(backend, call, *args, **kwargs))
    return call(*args, **kwargs)
