"""Sorting more strings than memory should hold."""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Final

__all__ = ["sorted_distinct"]

RUN_LENGTH: Final = 100_000
"""So many strings are held at a time: about 20 MiB where they are keys. The others wait in unlinked files."""


@contextmanager
def sorted_distinct(items: Iterable[str], *, run_length: int = RUN_LENGTH) -> Iterator[Iterator[str]]:
    """Read strings to their end, and give them in the byte order of their UTF-8 form, each once.

    Args:
        items: The strings, in any order.
        run_length: How many are sorted in memory at a time.
    """
    with ExitStack() as stack:
        files: list[IO[str]] = []
        run: list[str] = []
        for item in items:
            run.append(item)
            if len(run) >= run_length:
                files.append(stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")))
                files[-1].writelines(f"{json.dumps(each)}\n" for each in sorted(run))  # an item may hold a line feed
                files[-1].seek(0)
                run.clear()
        run.sort()  # by code points, which sort as their UTF-8 bytes do
        yield _distinct(heapq.merge(run, *(map(json.loads, file) for file in files)))


def _distinct(items: Iterable[str]) -> Iterator[str]:
    last = None
    for item in items:
        if item != last:
            yield item
        last = item
