"""Schemathesis sends what the API's description allows, and what it does not: no server error, and nothing undescribed.

`GRANITE_DEEP=1` sends many more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.hostile.world import World
from tests.support.processes import answers, free_port, running
from tests.support.upload_apps import serve

EXAMPLES = 100 if os.environ.get("GRANITE_DEEP") else 5
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """The example application, and what its paths may name."""
    folder, url = tmp_path_factory.mktemp("example"), f"http://127.0.0.1:{(port := free_port())}"
    environment = {"GRANITE_DEMO_DIR": str(folder), "MAX_SIZE": "1000000", "PORT": str(port)}
    # A process of its own: its models are in a metadata that others in this one use, too.
    argv, root = [sys.executable, "-m", "example_app"], Path(__file__).parents[2]
    with running(argv, log=folder / "log", ready=lambda: answers(url), cwd=root, env=environment):
        item = httpx.post(f"{url}/api/items", files={"file": ("a.txt", b"text " * 100)}).json()
        attached = httpx.post(f"{url}/api/items/{item['id']}/attachments", files={"files": b"note"}).json()
        note = attached["attachments"][0]["id"]
        yield url, {"id": item["id"], "item": note, "attachment": note}


@pytest.fixture(scope="module")
def every_route(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    """An application with every kind of route, and what its paths may name."""
    letter = str(world.put(b"text " * 100, slug="letter", number=7))
    with serve(world.app, "granian") as url:
        link = httpx.get(f"{url}/letters/{letter}/link").json()["url"]
        token = link.split("/")[-2]
        yield url, {"id": letter, "letter_id": letter, "slug": "letter", "number": 7, "token": token, "filename": "x"}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("application", ["example", "every_route"])
def test_what_is_answered_is_described_and_is_no_server_error(
    application: str, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    url, names = request.getfixturevalue(application)
    schema = schemathesis.openapi.from_url(f"{url}/schema/openapi.json")
    sent = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.startswith(("/prices", "/spans")):  # see test_addresses: Litestar's own
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @seed(1)
            @settings(
                max_examples=EXAMPLES,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            )
            @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
            def answered(case: Any, known: bool) -> None:
                nonlocal sent
                if known:
                    case.path_parameters.update({k: v for k, v in names.items() if k in case.path_parameters})
                response = case.call(base_url=url, timeout=30)
                case.validate_response(response, checks=CHECKS)
                sent += 1

            with suppress(Unsatisfiable):  # an operation that takes nothing cannot be given what is wrong
                answered()
    record_property("counted", f"Hostile input: schemathesis, {application}|{sent}|requests")
    assert sent > 10 * EXAMPLES
