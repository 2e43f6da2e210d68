"""The pages on the command line: nothing is undocumented, and what they show can be typed."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from granite_litestar.cli import granite_group
from granite_litestar.cli._exits import Exit
from tests.integration.litestar.cli_support import APP, System, local

__all__ = ["local"]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "reference" / "cli.md").read_text()
SHOWN = sorted(
    {
        (page.name, line.strip())
        for page in DOCS.rglob("*.md")
        if "_build" not in page.parts
        for line in page.read_text().splitlines()
        if re.match(r"\s*litestar granite \w", line)
    }
)


def section(command: str) -> str:
    found = re.search(rf"^### `{command}\b.*?(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"{command} has no section"
    return found.group()


@pytest.mark.parametrize("name", sorted(granite_group.commands))
def test_every_command_and_option_is_documented(name: str) -> None:
    text = section(name)
    for parameter in granite_group.commands[name].params:
        if isinstance(parameter, click.Option):
            shared = parameter.name == "as_json"
            for option in parameter.opts:
                assert f"`{option}" in (PAGE if shared else text), f"{name} {option}"
            assert shared or parameter.help, f"{name} {parameter.name} has no help"
    assert granite_group.commands[name].help


def test_nothing_is_documented_that_is_not_there() -> None:
    for name, text in re.findall(r"^### `([\w-]+)(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL):
        options = {each for parameter in granite_group.commands[name].params for each in parameter.opts}
        for option in re.findall(r"^- (.*?):", text, re.MULTILINE):
            for each in re.findall(r"`(--?[\w-]+)", option):
                assert each in options, f"{name} {each}"


def test_every_exit_code_is_documented() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE))
    assert rows == {str(each.value): each.name for each in Exit}


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_that_a_page_shows_can_be_typed(page: str, line: str) -> None:
    words = [each for each in shlex.split(line.partition(" > ")[0], comments=True)[2:] if each != "invoice.pdf"]
    command = granite_group.commands[words[0]]
    if words[0] == "put":
        words.insert(2, "-")
    command.make_context(words[0], words[1:])


def codes_of_findings() -> Iterator[str]:
    """Every code that the source gives a finding."""
    for module in (ROOT / "granite_core").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                continue
            first = node.args[0]
            if node.func.id == "_try" and isinstance(node.args[1], ast.Constant):
                yield str(node.args[1].value)
            elif node.func.id == "Finding" and isinstance(first, ast.Constant):
                yield str(first.value)
            elif node.func.id == "Finding" and isinstance(first, ast.JoinedStr):
                suffix = "".join(str(part.value) for part in first.values if isinstance(part, ast.Constant))
                yield from (f"{run}{suffix}" for run in ("sweep", "reconcile"))


def test_every_finding_of_the_doctor_is_documented() -> None:
    page = (DOCS / "reference" / "doctor.md").read_text()
    rows = [re.findall(r"`([\w-]+)`", row) for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)]
    assert {code for row in rows for code in row} == set(codes_of_findings())


def test_the_nightly_script_runs(local: System, tmp_path: Path) -> None:
    local.keep(b"12345")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "litestar").write_text(f'#!/bin/sh\nexec {sys.executable} -m litestar "$@"\n')
    (programs / "litestar").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "LITESTAR_APP": APP}
    script = [shutil.which("sh") or "sh", str(DOCS / "examples" / "nightly.sh")]
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=170)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    swept, reconciled, verified, status = _documents(done.stdout)
    assert (swept["deleted"], reconciled["listed"], verified["refs"]) == (0, 1, 1)
    assert sorted(status["last"]) == ["reconcile", "sweep", "verify"]
    local.tables.column.drop(local.engine)
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 1
    assert "granite sweep ended with 3" in done.stderr


def _documents(text: str) -> list[dict[str, object]]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        document, at = decoder.raw_decode(text, at)
        found.append(document)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def test_the_job_of_a_queue_collects(local: System) -> None:
    from tests.support.operated_app import create_app

    local.clear(local.keep())
    local.let_time_pass()
    local.manager.get_backend("main").put_bytes("documents/lost", b"")
    collect = runpy.run_path(str(DOCS / "examples" / "collect_job.py"))["collect"]
    assert asyncio.run(collect(create_app())) == {"deleted": 1, "failed": 0, "noted": 1}
    local.tables.column.drop(local.engine)
    assert "granite_column" in asyncio.run(collect(create_app()))["refused"]
