"""What policies decide, through the manager that applies them."""

from __future__ import annotations

from typing import Any

import pytest

from granite_core import (
    AsyncStorageManager,
    ConfigurationError,
    ContentTypeMismatchError,
    ContentTypeNotAllowedError,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
)

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(20)


def make_manager(**options: Any) -> tuple[StorageManager, MemoryStorageBackend]:
    store = MemoryStorageBackend()
    return StorageManager({"main": store}, [StoragePolicy("files", "main", **options)]), store


class TestTypes:
    def test_a_lie_is_stored_as_what_it_is_unless_the_policy_minds(self) -> None:
        manager, _ = make_manager()
        ref = manager.put_bytes("files", content=PNG, content_type="image/jpeg", original_filename="a.jpg")
        assert ref.content_type == "image/png"

    @pytest.mark.parametrize("said", [{"original_filename": "a.jpg"}, {"content_type": "image/jpeg"}])
    def test_a_lie_is_refused_where_the_policy_minds(self, said: dict[str, str]) -> None:
        manager, store = make_manager(mismatch="refuse")
        with pytest.raises(ContentTypeMismatchError) as caught:
            manager.put_bytes("files", content=PNG, **said)
        error = caught.value
        assert (error.field, error.limit, error.value) == ("files", "image/png", "image/jpeg")
        assert error.code == "content_type_mismatch"
        assert "image/png" in error.public_message
        assert [*store.iter_locations()] == []
        assert manager.put_bytes("files", content=PNG, original_filename="a.png").content_type == "image/png"

    async def test_a_lie_is_refused_in_both_colours(self) -> None:
        manager, store = make_manager(mismatch="refuse")
        write = AsyncStorageManager(manager).stage("files", filename="a.pdf", field="cv")
        await write.write(PNG)
        with pytest.raises(ContentTypeMismatchError, match=r"^cv: this is image/png, not application/pdf"):
            await write.commit()
        assert [*store.iter_locations()] == []

    def test_an_empty_file_is_no_image(self) -> None:
        manager, _ = make_manager(content_types=["image/*"])
        with pytest.raises(ContentTypeNotAllowedError):
            manager.put_bytes("files", content=b"", content_type="image/png", original_filename="a.png")

    def test_a_type_may_be_accepted_by_another_of_its_names(self) -> None:
        manager, _ = make_manager(content_types=["audio/x-wav"])
        ref = manager.put_bytes("files", content=b"RIFF\x24\x00\x00\x00WAVEfmt ")
        assert ref.content_type == "audio/wav"

    def test_what_cannot_be_meant_is_refused_at_once(self) -> None:
        with pytest.raises(ConfigurationError):
            make_manager(mismatch="ignore")
