"""What each process did, as lines of JSON that outlive it however it ends."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from granite_core.events import Deleted, Event, Stored

__all__ = ["Journal", "described", "read_journals"]


class Journal:
    """A file that one process appends lines to; each is written at once, in one piece."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = os.open(folder / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, what: str, **facts: Any) -> None:
        line = json.dumps({"at": round(time.time(), 4), "pid": os.getpid(), "what": what, **facts}, default=str)
        os.write(self._file, line.encode() + b"\n")

    def hear(self, event: Event) -> None:
        """Write down what Granite tells of objects."""
        if isinstance(event, (Stored, Deleted)):
            facts = event.to_dict()
            self.write(facts.pop("event"), object=facts["object_id"], size=facts["size"], reason=facts.get("reason"))


def described(error: BaseException) -> dict[str, str]:
    """An error for a journal: in short, and whole."""
    short = str(error).partition("\n")[0]
    return {"error": f"{type(error).__name__}: {short}", "trace": "".join(traceback.format_exception(error))}


def read_journals(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield every line of every journal."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            yield json.loads(line)
