"""Processes to be killed: one that has everything imported makes a new one for each death, by fork.

What a fork must not share (executors, connections, a running loop) is made at first use, in each process its own.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from tests.faults.steps import Death
from tests.faults.world import Place, World

__all__ = ["Forks"]


class Forks:
    """Runs operations in processes of their own, and kills them at a step."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )

    def run(self, place: Place, operation: str, salt: str, at: int) -> bool:
        """Run an operation until it is killed at a step; whether it was, or came to its end before."""
        pickle.dump((place, operation, salt, at), self._pipe(self._process.stdin))
        self._pipe(self._process.stdin).flush()
        ended = pickle.load(self._pipe(self._process.stdout))
        assert ended in (-signal.SIGKILL, 0), f"it ended with {ended}"
        return bool(ended)

    def close(self) -> None:
        self._pipe(self._process.stdin).close()
        self._process.wait(10)
        self._pipe(self._process.stdout).close()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


def _serve() -> None:
    from tests.faults.operations import OPERATIONS

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed is no answer
    worlds: dict[Place, Any] = {}
    while True:
        try:
            place, name, salt, at = pickle.load(requests)
        except EOFError:
            return
        if place not in worlds:
            worlds = {place: World(place)}
        world = worlds[place]
        child = os.fork()
        if not child:
            try:
                world.warm_up()
                with world.steps.counting(Death(at, "kill")):
                    OPERATIONS[name].run(world, salt)
                    world.steps.before("the end", None)
            except BaseException:
                traceback.print_exc()
                os._exit(3)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        pickle.dump(os.waitstatus_to_exitcode(status), answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
