"""What policies decide, through the manager that applies them."""

from __future__ import annotations

import io
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granite_core import (
    AsyncStorageManager,
    ConfigurationError,
    ContentTypeMismatchError,
    ContentTypeNotAllowedError,
    InvalidKeyError,
    LocalStorageBackend,
    MemoryStorageBackend,
    StorageManager,
    StoragePolicy,
    WriteOptions,
)
from granite_core.keys import validate_key

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


class TestKeys:
    def test_a_template_names_the_folders(self) -> None:
        manager, _ = make_manager(key_prefix="files", key_template="t-{tenant}/{model_name}")
        acme = {"tenant": "acme", "unused": "x"}
        ref = manager.put_bytes("files", "invoice", 7, "scan", content=b"x", original_filename="a.TXT", context=acme)
        *folders, name = ref.location.split("/")
        assert folders == ["files", "t-acme", "invoice"]
        assert name.endswith(".txt")
        assert len(name) == len(".txt") + 26

    async def test_every_verb_takes_the_context(self) -> None:
        manager, _ = make_manager(key_template="{tenant}")
        aio, other = AsyncStorageManager(manager), {"tenant": "other"}
        with manager.stage("files", context=other) as write:
            refs = [write.commit()]
        async with aio.stage("files", context=other) as awrite:
            refs.append(await awrite.commit())

        async def chunks() -> Any:
            yield b"x"

        refs += [
            manager.put_stream("files", stream=io.BytesIO(b"x"), context=other),
            manager.copy(refs[0], context=other),
            await aio.put_bytes("files", content=b"x", context=other),
            await aio.put_stream("files", stream=io.BytesIO(b"x"), context=other),
            await aio.put_stream("files", stream=chunks(), context=other),
            await aio.copy(refs[0], context=other),
        ]
        assert {ref.location.split("/")[0] for ref in refs} == {"other"}

    def test_a_missing_name_is_named(self) -> None:
        manager, store = make_manager(key_template="{tenant}/{model_name}")
        with pytest.raises(
            ConfigurationError, match=r"'\{tenant\}/\{model_name\}' needs a value for 'tenant'"
        ) as caught:
            manager.put_bytes("files", "invoice", content=b"x")
        assert (caught.value.field, caught.value.value) == ("tenant", "{tenant}/{model_name}")
        with pytest.raises(ConfigurationError, match="'model_name'"):
            manager.put_bytes("files", content=b"x", context={"tenant": "acme"})
        assert [*store.iter_locations()] == []

    def test_an_empty_name_is_refused(self) -> None:
        manager, _ = make_manager(key_template="{tenant}")
        with pytest.raises(InvalidKeyError, match="'tenant' is ''"):
            manager.put_bytes("files", content=b"x", context={"tenant": ""})

    @given(st.text(min_size=1, max_size=20))
    def test_no_value_leaves_its_segment(self, value: str) -> None:
        policy = StoragePolicy("files", key_template="{tenant}/x")
        key = policy.new_key("u", context={"tenant": value})
        validate_key(key)
        assert key.count("/") == 2
        assert key.endswith("/x/u")

    @pytest.mark.parametrize("tenant", ["..", ".granite", "a/../b", "\\", "a\x00b"])
    def test_a_value_is_cleaned(self, tenant: str) -> None:
        manager, _ = make_manager(key_template="{tenant}")
        segments = manager.put_bytes("files", content=b"x", context={"tenant": tenant}).location.split("/")
        assert len(segments) == 2
        assert not segments[0].startswith(".")

    @pytest.mark.parametrize(
        "template",
        ["{a", "{}", "{0}", "{a.id}", "{a[0]}", "{a!r}", "{a:>9}", "/{a}", "a//b", "../{a}", "", ".granite/{a}"],
    )
    def test_what_is_no_template_is_refused_at_once(self, template: str) -> None:
        with pytest.raises(ConfigurationError, match="key_template"):
            make_manager(key_template=template)


class TestDurability:
    """How often the disk is told to keep what it was given; the policy's word against the backend's."""

    @pytest.fixture
    def synced(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        done: list[str] = []
        sync, link = os.fsync, os.link

        def watched_sync(descriptor: int) -> None:
            name = Path(f"/proc/self/fd/{descriptor}").readlink().name
            done.append("the bytes" if name.startswith(".granite-tmp-") else name)
            sync(descriptor)

        def watched_link(*args: Any, **kwargs: Any) -> None:
            done.append("named")
            link(*args, **kwargs)

        monkeypatch.setattr(os, "fsync", watched_sync)
        monkeypatch.setattr(os, "link", watched_link)
        return done

    def manager(self, folder: Path, *, backend: bool, policy: bool | None) -> StorageManager:
        (folder / "root").mkdir()
        store = LocalStorageBackend(folder / "root", durable=backend)
        options = WriteOptions(durable=policy)
        policies = [StoragePolicy("files", "main", store=options, key_prefix="a"), StoragePolicy("plain", "main")]
        return StorageManager({"main": store}, policies)

    @pytest.mark.parametrize("how", ["put", "copy"])
    def test_a_durable_policy_on_a_backend_that_is_not_syncs_every_folder_on_the_way(
        self, tmp_path: Path, synced: list[str], how: str
    ) -> None:
        manager = self.manager(tmp_path, backend=False, policy=True)
        ref = manager.put_bytes("plain", content=b"x")
        assert synced == ["named"]
        (tmp_path / "root" / "a" / "_").mkdir(parents=True)
        synced.clear()
        if how == "put":
            manager.put_bytes("files", content=b"x")
        else:
            manager.copy(ref, "files")
        *before, named, after = synced
        assert sorted(before[:-1]) == ["a", "root"]
        assert (before[-1], named, after) == ("the bytes", "named", "_")

    @pytest.mark.parametrize(("backend", "policy"), [(True, True), (True, None), (False, True)])
    def test_bytes_are_synced_before_they_have_a_name_and_the_name_before_anyone_knows(
        self, tmp_path: Path, synced: list[str], backend: bool, policy: bool | None
    ) -> None:
        self.manager(tmp_path, backend=backend, policy=policy).put_bytes("files", content=b"x")
        assert synced[-3:] == ["the bytes", "named", "_"]

    @pytest.mark.parametrize(("backend", "policy"), [(True, False), (False, False), (False, None)])
    def test_where_it_is_not_wanted_nothing_is_synced(
        self, tmp_path: Path, synced: list[str], backend: bool, policy: bool | None
    ) -> None:
        manager = self.manager(tmp_path, backend=backend, policy=policy)
        manager.put_bytes("files", content=b"x")  # a durable backend keeps its new folders
        synced.clear()
        manager.put_bytes("files", content=b"x")
        assert synced == ["named"]


@pytest.mark.parametrize(
    "options",
    [
        {"content_types": "image/png"},
        {"content_types": ["png"]},
        {"content_types": ["image/"]},
        {"disposition": "inline"},
        {"delivery": "mail"},
        {"max_size": -1},
        {"retention": timedelta(-1)},
        {"verify_reads": True, "delivery": "redirect"},
        {"verify_reads": True, "delivery": "auto"},
        {"verify_reads": True, "delivery": "offload"},
        {"validators": [None]},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="of policy 'files'") as caught:
        make_manager(**options)
    assert caught.value.field in options
