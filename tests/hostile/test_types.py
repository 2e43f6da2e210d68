"""What is sent as one thing and is another: what it is kept as, and what a browser is told to do with it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.samples import ACTIVE, LIES, POLYGLOTS
from tests.hostile.world import FORM, SAFE_INLINE, Answer, World, form, part


async def sent(world: World, content: bytes, name: str, claimed: str | None) -> Answer:
    """Send it as a part of a form, or past all servers as a body, and get it back."""
    if claimed is None or not claimed.isprintable():
        headers = [("Content-Disposition", f'x; filename="{name}"'), *([("Content-Type", claimed)] if claimed else [])]
        made = await world.ask("POST", "/bodies", [content], headers)
    else:
        more = f"Content-Type: {claimed}\r\n".encode()
        file = part(b"file", content.replace(b"\r\n--b", b""), filename=name.encode(), more=more)
        made = await world.ask("POST", "/letters", [form(file)], FORM)
    if made.status in (400, 413):
        return made
    assert made.status == 201, made.body
    answer = await world.ask("GET", f"/letters/{json.loads(made.body)['id']}/file")
    assert answer.body == content
    return answer


@pytest.mark.parametrize("name", ACTIVE)
async def test_what_runs_is_offered_for_download_sandboxed(world: World, name: str) -> None:
    for called, claimed in ((name, None), (name, "image/png"), ("x", "text/html"), ("photo.jpg", None)):
        answer = await sent(world, ACTIVE[name], called, claimed)
        kind = answer.headers["content-type"].partition(";")[0]
        if answer.headers["content-disposition"].startswith("inline"):
            # Text whose active part lies behind what is looked at; or a script that is called a picture.
            assert kind == "text/plain"
        assert answer.headers["content-security-policy"].endswith("sandbox")


@pytest.mark.parametrize(("name", "claimed"), LIES)
async def test_a_lie_is_not_believed_where_a_browser_would_act_on_it(world: World, name: str, claimed: str) -> None:
    answer = await sent(world, LIES[name, claimed], name, claimed)
    if answer.status == 200:
        kind = answer.headers["content-type"].partition(";")[0]
        assert not kind.startswith(("image/png", "image/jpeg", "video/", "audio/", "application/pdf", "multipart/"))


@pytest.mark.parametrize("name", POLYGLOTS)
async def test_a_polyglot_is_one_thing_and_no_page(world: World, name: str) -> None:
    for called in (name, "x.html", "x.js"):
        for claimed in (None, "text/html"):
            answer = await sent(world, POLYGLOTS[name], called, claimed)
            kind = answer.headers["content-type"].partition(";")[0]
            inline = answer.headers["content-disposition"].startswith("inline")
            assert not (inline and kind in ("text/html", "application/xhtml+xml", "image/svg+xml", "application/xml"))
            if inline:
                assert SAFE_INLINE.match(kind)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"", *(each[:40] for each in (*ACTIVE.values(), *POLYGLOTS.values()))]),
    rest=st.binary(max_size=200),
    name=st.sampled_from(["x", *ACTIVE, *POLYGLOTS]),
    claimed=st.sampled_from([None, *(claimed for _, claimed in LIES)]),
)
async def test_whatever_the_mixture_the_answer_is_safe(
    world: World, head: bytes, rest: bytes, name: str, claimed: str | None
) -> None:
    """The judge of every answer has the say."""
    await sent(world, head + rest, name, claimed)
