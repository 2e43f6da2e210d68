"""A browser sends files to the store itself with the documented script, or to the application in its place."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Request, Route

from granite_core import backend_from_url
from tests.support.processes import answers, free_port, running
from tests.support.s3 import S3Server

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MIB = 1024 * 1024
UPLOAD = """async ([padding]) => {
    const { upload } = await import("/direct_upload.js");
    const bytes = await (await fetch("/sample.mp4")).arrayBuffer();
    const file = new File([bytes, new Uint8Array(padding)], "film.mp4", { type: "video/mp4" });
    const told = [];
    const answer = await upload(location.origin + "/", file, { onProgress: (sent, size) => told.push([sent, size]) });
    return [answer, told];
}"""


@pytest.mark.parametrize("place", ["local", "ceph"])
def test_a_browser_sends_a_film_to_wherever_it_is_told(
    place: str,
    browser: Browser,
    request: pytest.FixtureRequest,
    sample_mp4: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = {"PYTHONPATH": str(EXAMPLES.parents[1]), "STORAGE_URL": f"file:{tmp_path / 'files'}"}
    store = urlsplit(url).netloc
    if place == "ceph":
        server: S3Server = request.getfixturevalue("rgw")
        client, bucket = request.getfixturevalue("s3_bucket")(server)
        rules = json.loads((EXAMPLES / "direct_cors.json").read_text())
        rules["CORSRules"][0]["AllowedOrigins"] = [url]
        client.put_bucket_cors(Bucket=bucket, CORSConfiguration=rules)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        monkeypatch.setenv("AWS_DEFAULT_REGION", server.region)
        options = urlencode({"endpoint_url": server.endpoint, "atomic_create": "false"})
        environment["STORAGE_URL"] = f"s3://{bucket}/films?{options}"
        store = urlsplit(server.endpoint).netloc
    backend = backend_from_url(environment["STORAGE_URL"])
    sent_to: list[str] = []

    def serve(route: Route) -> None:
        files = {"/direct_upload.js": EXAMPLES / "direct_upload.js", "/sample.mp4": sample_mp4}
        path = urlsplit(route.request.url).path
        if path in files:
            kind = "text/javascript" if path.endswith(".js") else "video/mp4"
            route.fulfill(body=files[path].read_bytes(), content_type=kind)
        else:
            route.continue_(headers={**route.request.headers, "x-user": "ann"})

    def see(seen: Request) -> None:
        if seen.method == "PUT":
            sent_to.append(urlsplit(seen.url).netloc)

    argv = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", str(port), "direct_uploads:app"]
    with (
        running(argv, log=tmp_path / "log", ready=lambda: answers(url), cwd=tmp_path, env=environment),
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.on("request", see)
        page.route(f"{url}/**", serve)
        page.goto(f"{url}/schema/openapi.json")  # a page that a server gave: others may not talk to this machine
        for padding, requests in ((0, 1), (66 * MIB, 5)):
            content = sample_mp4.read_bytes() + bytes(padding)
            sent_to.clear()
            answer, told = page.evaluate(UPLOAD, [padding])
            assert (answer["filename"], answer["size"]) == ("film.mp4", len(content))
            assert answer["content_type"] == "video/mp4"
            assert sent_to == [store] * requests
            assert len(told) == (requests if requests > 1 else 0)
            film = page.request.post(
                f"{url}/films", data={"title": "Film", "upload": answer["token"]}, headers={"X-User": "ann"}
            )
            assert film.status == 201, film.text()
    stored = {hashlib.sha256(backend.get(each.location)).hexdigest() for each in backend.list_objects()}
    film_bytes = sample_mp4.read_bytes()
    assert stored == {hashlib.sha256(film_bytes + bytes(padding)).hexdigest() for padding in (0, 66 * MIB)}
