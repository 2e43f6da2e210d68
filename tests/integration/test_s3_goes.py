"""Whatever the goes at an S3 object are, what is stored is what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import MetaData, create_engine

from granite_core import S3StorageBackend, StorageManager, StoragePolicy
from granite_core.errors import BackendError
from granite_core.integrations.sqlalchemy import SQLAlchemyUploadLedger
from granite_core.testing.conformance.support import noise
from granite_core.uploads import Uploads
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
    assert not backend.client.list_multipart_uploads(Bucket=backend.bucket, Prefix=key).get("Uploads")
    assert [entry["Key"] for entry in backend.client.list_objects_v2(Bucket=backend.bucket)["Contents"]] == [key]
    backend.delete(key)


def test_a_bucket_that_may_not_be_asked_for_its_uploads_takes_the_object_all_the_same(
    backend: S3StorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied"}}, "ListMultipartUploads")

    with backend.resume_writer("refused") as writer:
        writer.write(noise(1000))
        writer.checkpoint(last=True)
        monkeypatch.setattr(backend.client, "list_multipart_uploads", refused)
        writer.commit()
    assert backend.get("refused") == noise(1000)
    backend.delete("refused")


def test_bytes_that_are_not_kept_leave_no_parts(backend: S3StorageBackend, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'rows.db'}")
    metadata = MetaData()
    manager = StorageManager({"main": backend}, [StoragePolicy("files", "main")])
    uploads = Uploads(manager, SQLAlchemyUploadLedger(engine, metadata))
    metadata.create_all(engine)
    session = uploads.create("files", kind="test", length=1000)
    for _ in range(2):
        reception = uploads.receive(session.id, offset=0)
        reception.write(noise(900), records=False)
        reception._arrival.drain()  # as with more bytes than wait in memory
        reception.close(keep=False)
        assert not backend.client.list_multipart_uploads(Bucket=backend.bucket, Prefix=session.location).get("Uploads")
    engine.dispose()


def test_a_part_of_another_length_is_not_sent(backend: S3StorageBackend) -> None:
    with backend.resume_writer("short") as writer:
        writer.write(noise(100))
        writer.offset += 50  # no way is known by which it would be so
        with pytest.raises(BackendError, match="would have 100 bytes for 150"):
            writer.checkpoint(last=True)
    assert not backend.client.list_multipart_uploads(Bucket=backend.bucket, Prefix="short").get("Uploads")
