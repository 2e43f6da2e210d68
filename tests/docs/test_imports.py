"""The album, from which the guide on content from elsewhere quotes, does what it says."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.answers import Server, ok, serving
from tests.support.processes import answers, free_port, running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(300_000)


@pytest.fixture
def pictures() -> Iterator[Server]:
    with serving(ok(PNG)) as server:
        yield server


@pytest.fixture
def env(pictures: Server) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "INNER_HOSTS": "127.0.0.1", "PORTS": str(pictures.port)}


def test_a_page_follows_an_import_by_server_sent_events(tmp_path: Path, env: dict[str, str], pictures: Server) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), "imports:app"]
    program = running(argv, log=tmp_path / "log", ready=lambda: answers(url), cwd=tmp_path, env=env)
    with program, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:

        def events(of: str) -> list[list[str]]:
            number = client.post("/imports", json={"url": of}).json()["id"]
            told = client.get(f"/imports/{number}/events")
            assert told.headers["content-type"].startswith("text/event-stream")
            lines = [each.splitlines() for each in told.text.replace("\r\n", "\n").split("\n\n") if each.strip()]
            return [[line.partition(": ")[2] for line in each] for each in lines]

        told = events(f"http://127.0.0.1:{pictures.port}/a.png")
        assert told[0] == ["progress", f"0 {len(PNG)}"]
        assert told[-2:] == [["progress", f"{len(PNG)} {len(PNG)}"], ["stored", "a.png"]]
        [refused] = events(f"http://169.254.169.254:{pictures.port}/")
        assert refused == ["failed", "pictures: nothing can be fetched from this address"]
        assert client.get("/imports/7b0f3c1e-0000-4000-8000-000000000000/events").status_code == 404


def test_content_comes_from_paths_iterators_and_data_uris_too(
    tmp_path: Path, env: dict[str, str], pictures: Server
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    uri = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    (tmp_path / "uri").write_text(uri)
    program = f"""
        import asyncio
        from pathlib import Path
        import imports

        async def main():
            async with imports.tables(imports.app):
                for each in await imports.from_other_places(Path("."), Path("uri").read_text()):
                    print(each.original_filename, each.content_type)
                picture = await imports.at_flush("http://127.0.0.1:{pictures.port}/flushed.png")
                print(picture.file.original_filename, picture.file.size)
                await imports.files.wait_for_hooks()
                print(imports.INDEX)

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={**os.environ, **env, "PYTHONPATH": f"{ROOT}:{EXAMPLES}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "a.png image/png",
        "signature.png image/png",
        "rendered.png image/png",
        f"flushed.png {len(PNG)}",
        "['flushed.png']",
    ]
