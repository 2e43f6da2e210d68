"""``litestar granite ls``, ``cat``, ``put``, ``cp`` and ``rm``."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from granite_core import ContentTooLargeError, StoredObjectRef
from granite_core.events import object_id
from tests.integration.litestar.cli_support import System, local, system
from tests.support.operated_app import Document

__all__ = ["local", "system"]


def ref_of(document: Document) -> StoredObjectRef:
    assert document.file is not None
    return document.file


class TestFind:
    def test_the_id_of_a_log_line_leads_to_the_object_and_its_rows(self, system: System) -> None:
        document = system.keep(b"12345", pages=(b"page",))
        ref = ref_of(document)
        found = system.json("find", object_id(ref.location))
        assert (found["location"], found["stored_in"]) == (ref.location, "main")
        [row] = found["rows"]
        assert (row["column"], row["key"], row["ref"]["size"]) == ("document.file", str(document.id), 5)
        shown = system.run("find", object_id(document.pages[0].location)).stdout
        assert document.pages[0].location in shown
        assert "document.pages" in shown

    def test_rows_tell_of_bytes_that_are_gone_and_stores_of_objects_that_nobody_holds(self, local: System) -> None:
        ref = ref_of(local.keep())
        local.manager.delete(ref)
        found = local.json("find", object_id(ref.location))
        assert (found["stored_in"], len(found["rows"])) == (None, 1)
        assert "its bytes are in no backend" in local.run("find", object_id(ref.location)).stdout
        assert local.run("find", object_id(ref.location), "--no-bytes").stdout.splitlines()[0] == ref.location
        local.manager.get_backend("main").put_bytes("documents/~lost", b"1")
        assert local.json("find", object_id("documents/~lost"))["rows"] == []
        assert local.run("find", object_id("documents/~lost"), "--no-bytes").exit_code == 7
        assert local.json("find", "0" * 16, code=7)["error"]["code"] == "not_found"


class TestLs:
    def test_objects_are_listed_with_who_holds_them(self, system: System) -> None:
        kept = ref_of(system.keep(b"12345"))
        gone = system.clear(system.keep())
        main = system.manager.get_backend("main")
        main.put_bytes("documents/~lost", b"1")
        main.put_bytes("elsewhere/x", b"1")
        result = system.run("ls", "documents", "--json")
        found = {each["location"]: each for each in map(json.loads, result.stdout.splitlines())}
        assert {key: each["held_by"] for key, each in found.items()} == {
            kept.location: "row",
            gone.location: "tombstone",
            "documents/~lost": "nobody",
        }
        assert found[kept.location]["size"] == 5
        modified = datetime.fromisoformat(found[kept.location]["modified"])
        assert abs(datetime.now(modified.tzinfo) - modified) < timedelta(minutes=10)
        assert list(found) == sorted(found)
        only = system.run("ls", "documents", "--nobodys", "--json").stdout.splitlines()
        assert [json.loads(each)["location"] for each in only] == ["documents/~lost"]

    def test_people_read_lines(self, local: System) -> None:
        ref = ref_of(local.keep(b"12345"))
        (line,) = local.run("ls", "documents").stdout.splitlines()
        size, _, _, who, location = line.split()
        assert (size, who, location) == ("5", "row", ref.location)

    def test_a_part_can_be_listed_and_the_database_left_alone(
        self, local: System, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        main = local.manager.get_backend("main")
        for name in ("a/1", "a/2", "a/3", "b/1"):
            main.put_bytes(f"documents/{name}", b"")
        monkeypatch.setenv("OPERATED_DATABASE", "postgresql+asyncpg://127.0.0.1:1/nowhere")

        def listed(*arguments: str) -> list[str]:
            lines = local.run("ls", "documents", *arguments, "--no-rows", "--json").stdout.splitlines()
            assert all("held_by" not in each for each in lines)
            return [json.loads(each)["location"].removeprefix("documents/") for each in lines]

        assert listed("a") == listed("documents/a") == ["a/1", "a/2", "a/3"]
        assert listed("--limit", "2") == ["a/1", "a/2"]
        assert listed("--start-after", "documents/a/2") == ["a/3", "b/1"]
        assert local.run("ls", "documents", "--no-rows", "--nobodys").exit_code == 2
        assert local.run("ls", "documents").exit_code == 4

    def test_a_policy_that_is_not_there_is_told(self, local: System) -> None:
        result = local.run("ls", "invoices")
        assert result.exit_code == 6
        assert "'documents', 'pages'" in result.stderr


class TestCat:
    def test_an_object_is_written_out_by_key_by_ref_and_by_row(self, system: System) -> None:
        content = bytes(range(256)) * 5000
        document = system.keep(content, pages=(b"first", b"second"))
        ref = ref_of(document)
        page = document.pages[1]
        for target in (
            [ref.location],
            [ref.location, "--backend", "main"],
            [ref.to_json().decode()],
            ["--of", "Document.file", str(document.id)],
            ["--of", "document.file", str(document.id)],
        ):
            assert system.run("cat", *target).stdout_bytes == content, target
        assert system.run("cat", ref.location, "--offset", "10", "--length", "5").stdout_bytes == content[10:15]
        assert system.run("cat", page.location).stdout == "second", "it is found by the row, in another backend"
        assert system.run("cat", "--of", "Document.pages", str(document.id), "--item", "-1").stdout == "second"

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["nothing", "--backend", "main"], 7, "no such object"),
            (["nothing"], 2, "--backend"),
            (["nothing", "--backend", "x"], 6, "no backend 'x'"),
            ([], 2, "--of"),
            (["../etc/passwd", "--backend", "main"], 2, "key"),
            (["{}"], 2, "that is no ref"),
            (["--of", "Document.file", "99"], 7, "there is no Document 99"),
            (["--of", "Document.file", "x"], 6, "no primary key of Document"),
            (["--of", "Document.nothing", "1"], 6, "Document.file"),
            (["--of", "Document.pages", "1", "--item", "5"], 7, "holds 0 files"),
        ],
    )
    def test_what_cannot_be_found_is_told(self, local: System, arguments: list[str], code: int, says: str) -> None:
        local.keep()
        result = local.run("cat", *arguments)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        assert says in result.stderr

    def test_no_database_is_needed_where_the_backend_is_said(
        self, local: System, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ref = ref_of(local.keep(b"12345"))
        monkeypatch.setenv("OPERATED_DATABASE", "postgresql+asyncpg://127.0.0.1:1/nowhere")
        assert local.run("cat", ref.location, "--backend", "main").stdout == "12345"


class TestPut:
    def test_a_file_is_stored_and_told_until_when_it_may_be_attached(self, system: System, tmp_path: Path) -> None:
        file = tmp_path / "report.txt"
        file.write_bytes(b"line\n" * 500_000)
        answer = system.json("put", "pages", str(file))
        ref = StoredObjectRef.from_dict(answer["ref"])
        assert (ref.storage_key, ref.size, ref.original_filename) == ("pages", 2_500_000, "report.txt")
        assert answer["attached"] is None
        assert (
            timedelta(minutes=20)
            < datetime.fromisoformat(answer["attach_before"])
            - datetime.now(datetime.fromisoformat(answer["attach_before"]).tzinfo)
            <= timedelta(minutes=30)
        )
        with system.session() as session:
            session.add(Document(pages=[ref]))
            session.commit()
        assert system.json("verify", "--checksums")["sound"] is True

    def test_people_are_told_on_stderr_and_the_ref_is_alone_on_stdout(self, local: System) -> None:
        result = local.run("put", "documents", "-", "--filename", "a.txt", input=b"hello")
        assert StoredObjectRef.from_json(result.stdout).size == 5
        assert "within 30 min" in result.stderr

    def test_a_row_can_have_it_at_once(self, system: System) -> None:
        document = system.keep(b"old")
        old = ref_of(document)
        attach = ["--attach", "Document.file", str(document.id)]
        refused = system.run("put", "documents", "-", *attach, input=b"new")
        assert (refused.exit_code, len(system.stored())) == (3, 1), "nothing was stored"
        answer = system.json("put", "documents", "-", *attach, "--yes")
        assert answer["attached"] == {"field": "Document.file", "row": str(document.id)}
        held = system.file_of(document)
        assert held is not None
        assert held.location == answer["ref"]["location"]
        assert system.tombstones() == {old.location}

    def test_a_list_is_added_to_without_a_question(self, local: System, tmp_path: Path) -> None:
        document = local.keep(pages=(b"1",))
        (tmp_path / "page.txt").write_text("second")
        attach = ["--attach", "document.pages", str(document.id)]
        answer = local.json("put", "pages", str(tmp_path / "page.txt"), *attach)
        with local.session() as session:
            pages = session.get_one(Document, document.id).pages
        assert [each.location for each in pages] == [document.pages[0].location, answer["ref"]["location"]]

    def test_what_cannot_be_attached_does_not_stay(self, local: System) -> None:
        before = local.stored()
        missing = local.run("put", "documents", "-", "--attach", "Document.file", "99", input=b"x")
        assert (missing.exit_code, local.stored()) == (7, before)
        wrong = local.run("put", "pages", "-", "--attach", "Document.file", "1", input=b"x")
        assert wrong.exit_code in (2, 7)
        document = local.keep()
        wrong = local.run("put", "pages", "-", "--attach", "Document.file", str(document.id), input=b"x")
        assert wrong.exit_code == 2
        assert "takes files of policy 'documents'" in wrong.stderr
        assert local.stored("second") == set()

    def test_a_commit_that_fails_leaves_the_file_to_the_sweep(self, local: System) -> None:
        document = local.keep()
        with local.engine.begin() as connection:
            connection.execute(
                text("CREATE TRIGGER no BEFORE UPDATE ON document BEGIN SELECT RAISE(ABORT, 'not now'); END")
            )
        attach = ["--attach", "Document.file", str(document.id), "--yes"]
        result = local.run("put", "documents", "-", *attach, input=b"new")
        assert result.exit_code == 4
        assert "the database says: not now" in result.stderr
        assert local.stored() - {ref_of(document).location} == local.tombstones()

    def test_what_the_policy_refuses_leaves_nothing(self, local: System, tmp_path: Path) -> None:
        result = local.run("put", "pages", "-", input=b"%PDF-1.7\n" + b"x" * 100)
        assert (result.exit_code, local.stored("second")) == (8, set())
        large = tmp_path / "large"
        large.write_bytes(b"x" * 20_000_001)
        assert local.json("put", "documents", str(large), code=8)["error"]["code"] == ContentTooLargeError.code
        assert local.stored() == set()
        assert local.run("put", "documents", str(tmp_path / "absent")).exit_code == 2


class TestCp:
    def test_an_object_is_stored_again_under_another_policy(self, system: System) -> None:
        document = system.keep(b"some text")
        ref = ref_of(document)
        for source in ([ref.location], [ref.to_json().decode()], ["--of", "Document.file", str(document.id)]):
            copy = StoredObjectRef.from_dict(system.json("cp", *source, "pages")["ref"])
            assert (copy.storage_key, copy.backend, copy.size) == ("pages", "second", 9)
            assert (copy.checksum, copy.location != ref.location) == (ref.checksum, True)
            assert system.manager.get(copy) == b"some text"

    def test_what_no_row_knows_is_read_and_hashed(self, local: System) -> None:
        local.manager.get_backend("main").put_bytes("documents/lost.txt", b"found")
        document = local.keep()
        attach = ["--attach", "Document.pages", str(document.id)]
        answer = local.json("cp", "documents/lost.txt", "pages", "--backend", "main", *attach)
        assert answer["ref"]["checksum"].startswith("sha256:")
        assert answer["ref"]["original_filename"] == "lost.txt"
        with local.session() as session:
            assert len(session.get_one(Document, document.id).pages) == 1

    def test_what_is_not_as_its_row_says_is_not_copied(self, local: System) -> None:
        ref = ref_of(local.keep(b"content"))
        main = local.manager.get_backend("main")
        main.delete(ref.location)
        assert local.run("cp", ref.location, "pages").exit_code == 7
        main.put_bytes(ref.location, b"CONTENT")
        result = local.run("cp", ref.location, "pages")
        assert result.exit_code == 4
        assert "SHA-256" in result.stderr
        assert local.stored("second") == set()
        assert local.run("cp", "a", "b", "c").exit_code == 2
        assert local.run("cp", "documents").exit_code == 2


class TestRm:
    @pytest.fixture
    def lost(self, system: System) -> str:
        system.manager.get_backend("main").put_bytes("documents/lost", b"123")
        return "documents/lost"

    def test_what_a_row_holds_is_refused(self, system: System, lost: str) -> None:
        document = system.keep()
        ref = ref_of(document)
        result = system.run("rm", "documents", ref.location, "--yes")
        assert result.exit_code == 3
        assert f"held by document.file of row {document.id}" in result.stderr
        found = system.json("rm", "documents", ref.location, lost, "--yes", code=3)
        assert {each["location"] for each in found["refused"]} == {ref.location, lost}
        assert system.stored() == {ref.location, lost}
        assert system.json("rm", "documents", ref.location, "--yes", "--force")["deleted"] == [ref.location]
        assert system.stored() == {lost}

    def test_what_an_upload_may_come_to_attach_is_refused(self, system: System, lost: str) -> None:
        result = system.run("rm", "documents", lost, "--yes")
        assert (result.exit_code, system.stored()) == (3, {lost})
        assert "under way" in result.stderr
        assert system.json("rm", "documents", lost, "--yes", "--force")["deleted"] == [lost]
        assert system.stored() == set()

    def test_the_sweep_can_be_left_to_decide(self, system: System, lost: str) -> None:
        ref = ref_of(system.keep())
        assert system.json("rm", "documents", lost, ref.location, "--later")["noted"] == [lost, ref.location]
        system.let_time_pass()
        report = system.json("sweep")
        assert (report["deleted"], report["held"], system.stored()) == (1, 1, {ref.location})

    def test_nothing_goes_without_an_answer(self, local: System, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPERATED_GRACE", "0.001")
        local.manager.get_backend("main").put_bytes("documents/old", b"123")
        result = local.run("rm", "documents", "documents/old", input="y\n")
        assert (result.exit_code, local.stored()) == (3, {"documents/old"})
        assert "--yes" in result.stderr
        assert local.run("rm", "documents", "documents/old", "--yes").exit_code == 0
        assert local.stored() == set()

    def test_what_is_not_there_or_not_the_policys_is_told(self, local: System) -> None:
        found = local.json("rm", "documents", "documents/absent", "--yes", code=7)
        assert found["missing"] == ["documents/absent"]
        local.manager.get_backend("main").put_bytes("elsewhere/x", b"")
        result = local.run("rm", "documents", "elsewhere/x", "--yes", "--force")
        assert (result.exit_code, local.stored()) == (2, {"elsewhere/x"})
