"""The tutorial is followed to the letter: its files saved in an empty folder, its commands run, answers compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import answers, free_port, running

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
PAGE = TUTORIALS / "first-attachment.md"


@dataclass
class Step:
    command: str
    answer: str


def _steps(page: str) -> Iterator[Step]:
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for command, answer in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            yield Step(command, answer)


def _matches(said: str, shown: str) -> bool:
    pattern = ".*".join(map(re.escape, shown.strip().split("...")))
    return re.fullmatch(pattern, said.replace("\r", "").strip(), re.DOTALL) is not None


def _environment() -> dict[str, str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "PYTHONPATH": str(TUTORIALS.parents[1]), "NO_PROXY": "*"}


def test_the_first_attachment_is_made_as_the_tutorial_says(tmp_path: Path) -> None:
    page = PAGE.read_text()
    for included in re.findall(r"^```\{literalinclude\} (\S+)", page, re.MULTILINE):
        source = (TUTORIALS / included).resolve()
        (tmp_path / source.name).write_bytes(source.read_bytes())
    port = free_port()
    install, serve, *steps = _steps(page.replace(":8000", f":{port}"))
    assert install.command.startswith("pip install")
    assert serve.command.startswith("litestar --app reports:app run")
    assert len(steps) > 12

    server = running(
        ["bash", "-c", f"exec {serve.command} --port {port}"],
        log=tmp_path / "log",
        ready=lambda: answers(f"http://127.0.0.1:{port}/reports"),
        cwd=tmp_path,
        env=_environment(),
    )
    with server:
        for step in steps:
            done = subprocess.run(
                ["bash", "-c", step.command.replace("curl ", "curl -sS ", 1)],
                cwd=tmp_path,
                env=_environment(),
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
            assert done.returncode == 0, (step.command, done.stderr)
            assert _matches(done.stdout, step.answer), (step.command, done.stdout, step.answer)


@pytest.mark.parametrize(("said", "shown"), [("a\nx\nb", "a\n...\nb"), ('{"a":1,"b":2}\n', '{"a":1,...}\n'), ("", "")])
def test_three_dots_stand_for_anything(said: str, shown: str) -> None:
    assert _matches(said, shown)
    assert not _matches(f"{said}!", shown)
