"""The judge of all answers finds what is wrong with one."""

from __future__ import annotations

import pytest

from granite_core import StoredObjectRef
from tests.hostile.world import SECRET, Answer, World

FILE = {
    "accept-ranges": "bytes",
    "content-type": "image/png",
    "content-disposition": "inline",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'",
}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def ref(world: World) -> StoredObjectRef:
    world.put(b"x")
    return next(each.file for each in world.letters() if each.file)


def test_what_is_right_passes(world: World) -> None:
    for answer in (Answer(200, FILE, b"Traceback"), Answer(404, JSON, b"{}"), Answer(204, {}, b"")):
        world.judge.check(answer)


@pytest.mark.parametrize(
    "changed",
    [
        {"content-type": "text/html"},
        {"content-type": "image/svg+xml"},
        {"content-type": "text/javascript", "content-disposition": "attachment"},
        {"content-type": "application/zip", "content-disposition": "attachment"},
        {"x-content-type-options": ""},
        {"content-security-policy": "script-src 'self'"},
        {"content-disposition": "inline\r\nX: y"},
        {"x-error": "Traceback"},
    ],
)
def test_a_file_that_a_browser_could_run_does_not(world: World, changed: dict[str, str]) -> None:
    with pytest.raises(AssertionError):
        world.judge.check(Answer(200, FILE | changed, b""))


def test_an_answer_that_tells_too_much_does_not(world: World, ref: StoredObjectRef) -> None:
    told = (str(world.root), ref.location, SECRET, 'File "granite_core/manager.py"')
    wrong = [Answer(400, JSON, each.encode()) for each in told]
    wrong += [Answer(500, JSON, b"{}"), Answer(400, {"content-type": "text/html"}, b"<p>")]
    for answer in wrong:
        with pytest.raises(AssertionError):
            world.judge.check(answer)


def test_a_line_of_a_client_s_in_the_log_is_seen(world: World, ref: StoredObjectRef) -> None:
    for line in ("one\ntwo", f"stored {ref.location}", SECRET):
        world.said.append(line)
        with pytest.raises(AssertionError):
            world.judge.check_logs()
        world.said.remove(line)


def test_what_lies_outside_of_the_root_is_seen(world: World) -> None:
    outside = world.root.parent / "escaped"
    outside.touch()
    with pytest.raises(AssertionError):
        world.judge.check_store()
    outside.unlink()
