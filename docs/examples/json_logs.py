"""Granite's log lines as JSON, one object a line."""

from __future__ import annotations

import json
import logging
import sys

from granite_core import MemoryStorageBackend, StorageManager, StoragePolicy

# the part "formatter" begins
PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in PLAIN}
        line = {"logger": record.name, "level": record.levelname, "message": record.getMessage(), **fields}
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
        # the part "formatter" ends


def main() -> None:
    # the part "set up" begins
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONFormatter())
    logger = logging.getLogger("granite")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    # the part "set up" ends
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("reports")])
    manager.delete(manager.put_bytes("reports", content=b"hello"))


if __name__ == "__main__":
    main()
