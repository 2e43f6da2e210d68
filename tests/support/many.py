"""Call a function in several processes at once, each of which imported everything before it began."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from .tether import PR_SET_PDEATHSIG

__all__ = ["end_with_parent", "forks", "side_by_side"]

T = TypeVar("T")

forks = multiprocessing.get_context("forkserver")
"""Where processes come from: one that has imported the larger packages, and has no threads and no connections."""

forks.set_forkserver_preload(["granite_core.backends.s3", "granite_core.gc", "granite_core.integrations.sqlalchemy"])


def end_with_parent() -> None:
    """See that this process is killed when the one it was forked from ends, which ends with the one that asked."""
    with suppress(AttributeError):  # no prctl but on Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def side_by_side(call: Callable[..., T], arguments: Iterable[tuple[Any, ...]], *, patience: float = 150) -> list[T]:
    """Call a function of a module with each of the arguments, all at once, and return what came of it, in order.

    Raises:
        BaseException: What a call raised.
    """
    each_of = list(arguments)
    with ProcessPoolExecutor(len(each_of), mp_context=forks, initializer=end_with_parent) as pool:
        futures = [pool.submit(call, *each) for each in each_of]
        return [future.result(patience) for future in futures]
