"""Listing in byte order: what a store gives in order is passed on, a disk is walked folder by folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from granite_core.errors import BackendError

__all__ = ["listed", "lower_bound", "walked"]

PAGE: Final = 1000
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def listed(library: Any, store: Any, prefix: str, after: str, is_there: Callable[[str], bool]) -> Iterator[Any]:
    """List a store that gives its objects in byte order.

    obstore lists whole folders only, so the rest of a prefix is looked at here.

    Args:
        library: obstore.
        store: Its store.
        prefix: What keys begin with.
        after: Only keys greater than this one.
        is_there: Tells whether there is an object of this very key. obstore shows the empty object ``a/``, by which
            consoles make folders seen, as ``a``.

    Raises:
        BackendError: The listing is not in order.
    """
    folder, slash, _ = prefix.rpartition("/")
    if slash and lower_bound(folder) != folder:
        return  # no key has such a folder
    last, empty_answers = "", 0
    while empty_answers < 2:
        # To obstore, what something between us and the store answers with is an empty last page: the end is believed
        # when it is said by an answer of its own, that of an empty store when it is said twice.
        empty_answers += 1 if not last else 2
        offset, previous = lower_bound(max(after, prefix[:-1], last)), ""
        for page in library.list(store, folder or None, offset=offset or None, chunk_size=PAGE):
            for meta in page:
                key = meta["path"]
                if not meta["size"] and (key <= max(last, previous) or not is_there(key)):
                    continue
                if key <= previous:
                    raise BackendError("list: the store's listing is not sorted", operation="list", backend="obstore")
                previous = key
                if key <= last:  # there are stores that begin anew, wherever they are told to
                    continue
                last, empty_answers = key, 0
                if key.startswith(prefix):
                    if key > after:
                        yield meta
                elif key > prefix:
                    return


def walked(library: Any, store: Any, prefix: str, after: str) -> Iterator[Any]:
    """List a store that knows no order: folder by folder, each sorted."""
    folders = [_entries(library, store, "")]
    while folders:
        entry = next(folders[-1], None)
        if entry is None:
            folders.pop()
            continue
        key, meta = entry
        if meta is not None:
            if key.startswith(prefix) and key > after:
                yield meta
        elif (key.startswith(prefix) or prefix.startswith(key)) and (key > after or after.startswith(key)):
            folders.append(_entries(library, store, key[:-1]))


def _entries(library: Any, store: Any, folder: str) -> Iterator[tuple[str, Any]]:
    """Return objects, and folders with a slash at their end, as their keys are sorted."""
    found = library.list_with_delimiter(store, folder or None)
    entries = [(meta["path"], meta) for meta in found["objects"]]
    entries += [(f"{each}/", None) for each in found["common_prefixes"]]
    return iter(sorted(entries, key=lambda each: each[0]))


def lower_bound(text: str) -> str:
    """Return the longest beginning of a text that obstore takes as a path: no key after the text comes before it."""
    kept: list[str] = []
    for segment in text.split("/"):
        found = _CONTROL.search(segment)
        sound = segment[: found.start()] if found else segment
        if sound in ("", ".", ".."):
            break
        kept.append(sound)
        if found:
            break
    return "/".join(kept)
