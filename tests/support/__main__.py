"""Start the servers and keep them until Ctrl-C: python -m tests.support [postgres] [ministack] [ceph].

A test run that sees the printed variable uses these servers, and starts none.
"""

from __future__ import annotations

import os
import signal
import sys

from .broker import VARIABLE, Broker, ask
from .parts import why_missing


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    broker = Broker()
    try:
        os.environ[VARIABLE] = broker.address
        for part in sys.argv[1:] or ["postgres", "ministack", "ceph"]:
            print(part, why_missing(part) or ask(part), flush=True)
        print(f"export {VARIABLE}={broker.address}", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        broker.close()


if __name__ == "__main__":
    main()
