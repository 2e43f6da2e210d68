"""Applications that the servers run, one in each process."""

import multiprocessing
import signal

from tests.support.tether import die_with_parent

if multiprocessing.parent_process() is not None:
    # granian's own process is tied to whoever started it; its workers, where applications are made, are not.
    die_with_parent(signal.SIGKILL)
