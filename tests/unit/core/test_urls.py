"""Which address a file is given, and what a link of ours leads to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from granite_core import (
    AsyncStorageManager,
    ConfigurationError,
    MemoryStorageBackend,
    S3StorageBackend,
    StorageManager,
    StoragePolicy,
    StoredObjectRef,
    TokenExpiredError,
    TokenInvalidError,
    UrlSettings,
    WriteOptions,
)
from granite_core.publishing import options_for
from granite_core.urls import window

SECRETS = ["s" * 32]
NOW = datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def bucket(**options: Any) -> S3StorageBackend:
    session = boto3.session.Session(aws_access_key_id="id", aws_secret_access_key="secret")
    return S3StorageBackend("bucket", client=session.client("s3", region_name="eu-central-1"), **options)


BACKENDS = {"main": MemoryStorageBackend(), "s3": bucket(), "cdn": bucket(public_url="https://cdn.example")}


def make(clock: Clock | None = None, urls: UrlSettings | None = None, **policy: Any) -> StorageManager:
    return StorageManager(
        BACKENDS,
        [StoragePolicy("files", **policy), StoragePolicy("other")],
        urls=UrlSettings(secrets=SECRETS) if urls is None else urls,
        now=clock or Clock(),
    )


def ref_of(backend: str = "main", **fields: Any) -> StoredObjectRef:
    given = {
        "storage_key": "files",
        "backend": backend,
        "location": "files/_/abcdefgh.pdf",
        "size": 10,
        "checksum": "sha256:" + "0f" * 32,
        "content_type": "application/pdf",
        "original_filename": "report.pdf",
        "created_at": "2026-02-01T10:00:00.123456Z",
    }
    return StoredObjectRef.from_dict(given | fields)


def token_of(url: str) -> str:
    return urlsplit(url).path.split("/")[2]


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


# -- time buckets ------------------------------------------------------------------------------------------------------

lifetimes = st.timedeltas(timedelta(microseconds=1), timedelta(days=3000))
moments = st.integers(0, 2**32 * 1000).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC))


@given(moments, lifetimes, st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=30)))
def test_a_window_has_begun_and_lasts_as_long_as_was_asked(now: datetime, lasts: timedelta, size: timedelta) -> None:
    found = window(now, lasts, size)
    step = found.lasts - timedelta(seconds=-(-lasts // timedelta(seconds=1)))
    assert found.starts <= now < found.starts + step
    assert now + lasts <= found.ends <= now + lasts + step + timedelta(seconds=1)
    assert found.starts.microsecond == 0


@given(moments, lifetimes)
def test_a_window_is_the_same_until_its_bucket_ends(now: datetime, lasts: timedelta) -> None:
    found = window(now, lasts)
    assert window(found.starts, lasts) == found
    step = found.lasts - timedelta(seconds=-(-lasts // timedelta(seconds=1)))
    assert window(found.starts + step - timedelta(microseconds=1), lasts) == found
    assert window(found.starts + step, lasts).starts == found.starts + step


def test_buckets_are_a_tenth_of_the_lifetime_unless_told() -> None:
    assert window(NOW, HOUR).lasts == HOUR + timedelta(minutes=6)
    assert window(NOW, HOUR, timedelta(minutes=1)).lasts == HOUR + timedelta(minutes=1)
    assert window(NOW, timedelta(seconds=3)).lasts == timedelta(seconds=4)


# -- links of the application ------------------------------------------------------------------------------------------


@given(
    st.builds(
        ref_of,
        location=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        size=st.integers(0, 2**60),
        checksum=st.sampled_from(["", "sha256:" + "ab" * 32]),
        content_type=st.none() | st.text(),
        created_at=st.none() | st.just("2026-02-01T10:00:00.000000Z"),
    )
)
def test_a_link_leads_to_the_file_it_was_made_of(ref: StoredObjectRef) -> None:
    manager = make()
    found = manager.resolve_link(token_of(manager.url(ref)))
    assert found.ref == ref
    assert found.ref.to_dict() == ref.to_dict()
    assert (found.filename, found.disposition) == (None, None)
    assert found.expires is not None


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"checksum": "sha256:" + "AB" * 32}, {"checksum": ""}),
        ({"checksum": "md5:00"}, {"checksum": ""}),
        ({"created_at": "2026-02-01T10:00:00.9"}, {"created_at": "2026-02-01T10:00:00.000000Z"}),
        ({"created_at": "2026-02-01T10:00:00+02:00"}, {"created_at": "2026-02-01T08:00:00.000000Z"}),
        ({"created_at": "yesterday"}, {"created_at": None}),
        ({"extra": {"a": 1}}, {"extra": None}),
    ],
)
def test_a_link_keeps_what_an_answer_tells(row: dict[str, Any], told: dict[str, Any]) -> None:
    manager = make()
    found = manager.resolve_link(token_of(manager.url(ref_of(**row)))).ref
    assert {name: getattr(found, name) for name in told} == told


@given(st.text())
@example("../../etc/passwd")
@example("a/b?c#d%2F.txt")
@example("naïve 日本.txt")
@example("..")
def test_the_name_in_a_link_is_one_segment_for_people_to_read(name: str) -> None:
    manager = make()
    url = manager.url(ref_of(original_filename=name))
    parts = urlsplit(url)
    assert url == parts.path
    assert url.isascii()
    segments = parts.path.split("/")
    assert segments[:2] == ["", "files"]
    assert len(segments) == 4
    assert segments[3] not in ("", ".", "..")
    assert unquote(segments[3]) == (manager.resolve_link(segments[2]).ref.original_filename or "file")


def test_a_link_shows_no_key() -> None:
    assert "abcdefgh" not in make().url(ref_of())


def test_links_are_absolute_where_the_address_is_known() -> None:
    settings = UrlSettings(secrets=SECRETS, public_url="https://app.example/base/", path="/x/links")
    assert make(urls=settings).url(ref_of()).startswith("https://app.example/base/x/links/")


def test_two_calls_in_one_bucket_give_one_link_and_the_next_bucket_another() -> None:
    clock = Clock()
    manager, worker = make(clock), make(clock)
    first = manager.url(ref_of())
    clock.now += timedelta(minutes=5)
    assert manager.url(ref_of()) == worker.url(ref_of()) == first
    clock.now += timedelta(minutes=1)
    assert manager.url(ref_of()) != first


def test_a_link_lasts_as_long_as_asked_and_a_bucket_longer_at_most() -> None:
    clock = Clock()
    manager = make(clock)
    token = token_of(manager.url(ref_of(), expires_in=HOUR))
    clock.now = NOW + HOUR
    manager.resolve_link(token)
    clock.now = NOW + HOUR + timedelta(minutes=6)
    with pytest.raises(TokenExpiredError):
        manager.resolve_link(token)


def test_name_and_disposition_are_bound_in() -> None:
    manager = make()
    link = manager.resolve_link(token_of(manager.url(ref_of(), filename="a/b: c.pdf", disposition="attachment")))
    assert (link.filename, link.disposition) == ("b: c.pdf", "attachment")
    assert link.ref.original_filename == "report.pdf"
    assert manager.url(ref_of(), disposition="attachment") != manager.url(ref_of())


def test_a_link_is_good_with_the_secrets_it_was_made_with() -> None:
    rotated = UrlSettings(secrets=["n" * 32, *SECRETS])
    token = token_of(make().url(ref_of()))
    assert make(urls=rotated).resolve_link(token).ref == ref_of()
    for settings in (UrlSettings(secrets=["n" * 32]), UrlSettings()):
        with pytest.raises(TokenInvalidError):
            make(urls=settings).resolve_link(token)


def test_without_a_secret_the_error_says_what_to_add() -> None:
    with pytest.raises(ConfigurationError, match=r"urls=UrlSettings\(secrets="):
        make(urls=UrlSettings()).url(ref_of())


def test_a_link_to_a_backend_that_is_gone_is_no_link() -> None:
    manager = make()
    token = token_of(manager.url(ref_of()))
    fewer = StorageManager(
        {"s3": BACKENDS["s3"]}, [StoragePolicy("files")], urls=UrlSettings(secrets=SECRETS), now=Clock()
    )
    with pytest.raises(TokenInvalidError):
        fewer.resolve_link(token)


def test_files_of_a_policy_that_was_dropped_have_links() -> None:
    manager = make()
    assert manager.resolve_link(token_of(manager.url(ref_of(storage_key="gone")))).ref.storage_key == "gone"
    assert manager.policy_of(ref_of(storage_key="gone")).disposition == "attachment"


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "files"}, {"path": "/"}, {"path": "/a b"}, {"path": "/files/"}, {"path": "/{x}"},
        {"public_url": "app.example"}, {"public_url": "https://app.example?x"},
        {"expires_in": timedelta(0)}, {"redirect_expires_in": timedelta(-1)}, {"bucket": timedelta(0)},
        {"expires_in": timedelta.max},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        UrlSettings(**wrong)


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(-1), timedelta.max])
def test_lifetimes_that_cannot_be_meant_are_refused(lifetime: timedelta) -> None:
    with pytest.raises(ConfigurationError):
        make().url(ref_of(), expires_in=lifetime)


def test_settings_show_no_secret() -> None:
    assert "sss" not in repr(UrlSettings(secrets=SECRETS))


# -- the store's addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["redirect", "auto"])
def test_the_store_signs_where_the_policy_says_so(delivery: Any) -> None:
    clock = Clock()
    manager = make(clock, delivery=delivery)
    url = manager.url(ref_of("s3"))
    assert url.startswith("https://bucket.s3.eu-central-1.amazonaws.com/files/_/abcdefgh.pdf?")
    asked = query_of(url)
    assert asked["X-Amz-Date"] == "20260301T120000Z"
    assert asked["X-Amz-Expires"] == str(66 * 60)
    assert asked["response-content-type"] == "application/pdf"
    assert asked["response-content-disposition"] == 'inline; filename="report.pdf"'
    assert asked["response-cache-control"] == "private"
    assert asked["response-expires"] == "Sun, 01 Mar 2026 13:06:00 GMT"
    clock.now += timedelta(minutes=5)
    assert manager.url(ref_of("s3")) == url


def test_the_caller_may_choose_the_way() -> None:
    assert make().url(ref_of("s3"), delivery="redirect").startswith("https://bucket.s3.")
    assert make(delivery="redirect").url(ref_of("s3"), delivery="stream").startswith("/files/")


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/javascript", None, "nonsense"])
def test_what_is_not_safe_inline_is_saved_wherever_it_comes_from(kind: str | None) -> None:
    url = make(delivery="redirect").url(ref_of("s3", content_type=kind), disposition="auto")
    assert query_of(url)["response-content-disposition"] == 'attachment; filename="report.pdf"'


@pytest.mark.parametrize(
    ("age", "expected"),
    [(0, "private, no-cache"), (60, "private, max-age=60, immutable"), (66 * 60, "private, immutable")],
)
def test_copies_from_the_store_are_good_no_longer_than_the_policy_says(age: int, expected: str) -> None:
    manager = make(delivery="auto", immutable=True, cache_max_age=timedelta(seconds=age))
    assert query_of(manager.url(ref_of("s3")))["response-cache-control"] == expected


def test_a_presigned_address_is_bound_to_name_and_disposition() -> None:
    manager = make(delivery="auto", disposition="attachment", immutable=True)
    assert query_of(manager.url(ref_of("s3")))["response-content-disposition"].startswith("attachment")
    asked = query_of(manager.url(ref_of("s3"), filename="né.pdf", disposition="auto"))
    assert asked["response-content-disposition"] == "inline; filename=\"ne.pdf\"; filename*=UTF-8''n%C3%A9.pdf"
    assert asked["response-cache-control"] == "private, immutable"


def test_where_the_store_cannot_sign_the_application_does() -> None:
    manager = make(delivery="redirect")
    assert manager.url(ref_of("main")).startswith("/files/")  # an object from before the policy moved to S3
    assert manager.url(ref_of("s3"), expires_in=timedelta(days=30)).startswith("/files/")


# -- public files ------------------------------------------------------------------------------------------------------


def test_public_files_have_the_address_of_the_cdn_where_there_is_one() -> None:
    manager = make(public=True)
    assert manager.url(ref_of("cdn")) == "https://cdn.example/files/_/abcdefgh.pdf"
    assert manager.url(ref_of("cdn"), delivery="stream").startswith("/files/")
    assert manager.url(ref_of("cdn"), filename="other.pdf").startswith("/files/")


def test_clients_are_sent_to_the_cdn_unless_the_link_says_more_than_it_can() -> None:
    manager = make(public=True, delivery="redirect")
    for wanted, begins in (({}, "https://cdn.example/"), ({"filename": "x.pdf"}, "https://bucket.s3.")):
        link = manager.resolve_link(token_of(manager.url(ref_of("cdn"), delivery="stream", **wanted)))
        plan = manager.plan_redirect(link.ref, filename=link.filename, disposition=link.disposition)
        assert plan is not None
        assert manager.links.carry_out(plan).startswith(begins)
    assert manager.plan_redirect(ref_of("main")) is None


def test_private_files_never_have_the_address_of_the_cdn() -> None:
    assert make().url(ref_of("cdn")).startswith("/files/")
    assert "cdn.example" not in make(delivery="redirect").url(ref_of("cdn"))


def test_public_links_are_the_same_for_ever() -> None:
    clock = Clock()
    manager = make(clock, public=True)
    url = manager.url(ref_of())
    clock.now += timedelta(days=3000)
    assert manager.url(ref_of()) == url
    assert manager.resolve_link(token_of(url)).expires is None
    assert manager.url(ref_of(location="files/_/other.pdf")) != url


def test_a_public_file_may_have_a_link_that_ends() -> None:
    manager = make(public=True)
    assert manager.resolve_link(token_of(manager.url(ref_of(), expires_in=HOUR))).expires is not None


@pytest.mark.parametrize("storage_key", ["files", "gone"])
def test_a_public_link_ends_when_the_policy_does_not_say_public_any_more(storage_key: str) -> None:
    url = make(public=True).url(ref_of())
    manager = (
        make()
        if storage_key == "files"
        else StorageManager(
            {"main": MemoryStorageBackend()}, [StoragePolicy("other")], urls=UrlSettings(secrets=SECRETS)
        )
    )
    with pytest.raises(TokenInvalidError):
        manager.resolve_link(token_of(url))


@pytest.mark.parametrize(
    ("kind", "name", "disposition"),
    [
        ("image/png", "a.png", 'inline; filename="a.png"'),
        ("text/html", "a.html", 'attachment; filename="a.html"'),
        ("image/svg+xml", None, "attachment"),
    ],
)
def test_what_is_stored_for_everybody_says_how_to_treat_it(kind: str, name: str | None, disposition: str) -> None:
    found = options_for(StoragePolicy("p", public=True, immutable=True), kind, name)
    assert found.content_disposition == disposition
    assert found.cache_control == "public, max-age=31536000, immutable"


def test_what_the_policy_asks_of_the_store_itself_stays() -> None:
    asked = WriteOptions(content_disposition="attachment", cache_control="no-store", tags={"a": "b"})
    assert options_for(StoragePolicy("p", public=True, store=asked), "image/png", "a.png") == asked
    assert options_for(StoragePolicy("p", store=WriteOptions(tags={"a": "b"})), "image/png", "a").tags == {"a": "b"}


def test_what_is_private_is_stored_as_it_was() -> None:
    assert options_for(StoragePolicy("p"), "text/html", "a.html") == WriteOptions()


# -- asynchronous code -------------------------------------------------------------------------------------------------


async def test_asynchronous_code_gets_the_same_addresses() -> None:
    manager = make(delivery="auto")
    files = AsyncStorageManager(manager)
    for ref in (ref_of(), ref_of("s3")):
        assert await files.url(ref, filename="x.pdf") == manager.url(ref, filename="x.pdf")
