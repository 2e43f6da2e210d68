"""Whatever the goes at an S3 object are, what is stored is what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from granite_core import S3StorageBackend
from granite_core.errors import BackendError
from granite_core.testing.conformance.support import noise
from tests.support.s3 import S3Server

PART = 400
"""The stand-in takes parts of any length; S3 and Ceph none of less than 5 MiB."""


@pytest.fixture(scope="module")
def backend(ministack: S3Server) -> Iterator[S3StorageBackend]:
    bucket, client = ministack.create_bucket(), ministack.client()
    found = S3StorageBackend(bucket, client=client)
    found.part_size = PART
    yield found
    found.close()
    client.close()
    ministack.drop_bucket(bucket)


names = count()
steps = st.tuples(st.integers(0, 350), st.booleans())
"""So many bytes, and whether a checkpoint follows."""
goes = st.lists(st.tuples(st.lists(steps, max_size=6), st.booleans()), min_size=1, max_size=6)
"""Steps, and whether the go ends in order; else what came since its last checkpoint is sent again."""


@settings(max_examples=15, deadline=None)
@given(goes)
@example([([(250, True)], True), ([(100, True), (300, True), (20, True)], True)])
@example([*[([(5, True)], True)] * 15, ([(5, True)] * 20, True)])
@example([*[([(30, True)], True)] * 3, ([(10, True)] * 33, False)])
def test_what_is_stored_is_what_was_sent(
    backend: S3StorageBackend, drawn: list[tuple[list[tuple[int, bool]], bool]]
) -> None:
    content = noise(sum(size for wanted, _ in drawn for size, _ in wanted))
    key, kept = f"a{next(names)}", 0
    state: str | None = None
    for wanted, in_order in drawn:
        with backend.resume_writer(key, offset=kept, state=state) as writer:
            state = writer.state
            for size, checkpoint in wanted:
                writer.write(content[writer.offset : writer.offset + size])
                if checkpoint:
                    state, kept = writer.checkpoint(), writer.offset
            if in_order:
                state, kept = writer.checkpoint(ends=True), writer.offset
    with backend.resume_writer(key, offset=kept, state=state) as writer:
        writer.write(content[kept:])
        writer.checkpoint(last=True)
        writer.commit()
    assert backend.get(key) == content
    assert [entry["Key"] for entry in backend.client.list_objects_v2(Bucket=backend.bucket)["Contents"]] == [key]
    backend.delete(key)


def test_a_part_of_another_length_is_not_sent(backend: S3StorageBackend) -> None:
    with backend.resume_writer("short") as writer:
        writer.write(noise(100))
        writer.offset += 50  # no way is known by which it would be so
        with pytest.raises(BackendError, match="would have 100 bytes for 150"):
            writer.checkpoint(last=True)
    assert not backend.client.list_multipart_uploads(Bucket=backend.bucket, Prefix="short").get("Uploads")
