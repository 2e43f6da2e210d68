"""What a form may hold, and what one did hold."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import types
import uuid
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from granite_core import ConfigurationError, ContentTooLargeError, StagedFile, StoredObjectRef
from granite_core.integrations.sqlalchemy import file_field, files_field
from granite_litestar._form_draft import FormDraft
from granite_litestar._form_plan import FileField, TextField, Upload, UploadDTO, plan_form
from granite_litestar.multipart import FormLimits, PartHead

LIMITS = FormLimits()
FILE = Annotated[StagedFile, Upload("documents")]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def staged() -> StagedFile:
    return StagedFile("documents", "main", uuid.uuid4().hex, 3, discard=lambda _: None)


def draft_of(dto: type[UploadDTO], *, limits: FormLimits = LIMITS) -> FormDraft:
    return FormDraft(plan_form(dto, limits=limits))


def form_with(kind: Any) -> type[UploadDTO]:
    """A form with a text field of some kind."""
    return types.new_class(
        "Form", (UploadDTO,), exec_body=lambda body: body.update({"__annotations__": {"field": kind, "file": FILE}})
    )


def text(draft: FormDraft, name: str, value: str, *, content_type: str | None = None) -> None:
    head = PartHead(name, "blob" if content_type == "application/json" else None, content_type, None)
    assert draft.fate_of(head) == "text"
    draft.add_text(head, value.encode())


def file(draft: FormDraft, name: str, filename: str | None = "a.txt", content_type: str | None = None) -> bool:
    head = PartHead(name, filename, content_type, None)
    assert draft.fate_of(head) == "store"
    spec = draft.plan.fields[name]
    assert isinstance(spec, FileField)
    if not draft.admit_file(spec, head):
        return False
    draft.add_file(spec, staged())
    return True


def finished(draft: FormDraft) -> Any:
    draft.finish()
    return draft.build()


def wrong(draft: FormDraft) -> list[tuple[str, str]]:
    assert finished(draft) is None
    return [(error.field, error.code) for error in draft.errors]


# ------------------------------------------------------------------------------------------------------------- plans
class Everything(UploadDTO):
    title: str
    cover: FILE
    back: Annotated[StagedFile | None, Upload("documents")]
    spine: Annotated[StoredObjectRef, Upload("spines")] | None = None
    pages: Annotated[list[StagedFile], Upload("pages", max_count=3)] = []
    tags: list[str] = []


def test_a_class_becomes_a_plan() -> None:
    fields = plan_form(Everything, limits=LIMITS).fields
    files = {name: each for name, each in fields.items() if isinstance(each, FileField)}
    assert {name: each.storage_key for name, each in files.items()} == {
        "cover": "documents",
        "back": "documents",
        "spine": "spines",
        "pages": "pages",
    }
    assert {name: (each.required, each.absent_is_none, each.many) for name, each in files.items()} == {
        "cover": (True, False, False),
        "back": (False, True, False),
        "spine": (False, False, False),
        "pages": (False, False, True),
    }
    assert (files["pages"].max_count, files["cover"].max_count) == (3, 1)
    assert isinstance(fields["tags"], TextField)
    assert fields["tags"].many


def test_required_fields_may_follow_optional_ones() -> None:
    class Ordered(UploadDTO):
        note: str = ""
        file: FILE

    assert Ordered(file=staged()).note == ""


def test_fields_are_called_by_their_name_in_the_form() -> None:
    class Renamed(UploadDTO, rename="camel"):
        my_file: FILE
        tag_list: list[str] = msgspec.field(default_factory=list, name="tags[]")

    assert list(plan_form(Renamed, limits=LIMITS).fields) == ["myFile", "tags[]"]


def test_a_class_may_have_limits_of_its_own() -> None:
    class Generous(UploadDTO):
        __form_limits__ = FormLimits(max_field_size=10)
        file: FILE

    assert plan_form(Generous, limits=LIMITS).limits.max_field_size == 10


def test_a_mapped_attribute_names_the_policy() -> None:
    class Base(DeclarativeBase):
        pass

    class Document(Base):
        __tablename__ = "document"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        file: Mapped[StoredObjectRef | None] = file_field("documents")
        pages: Mapped[list[StoredObjectRef]] = files_field("scans")

    class New(UploadDTO):
        file: Annotated[StagedFile, Upload(Document.file)]
        pages: Annotated[list[StagedFile], Upload(Document.pages)]

    # Annotations written as strings are found where the class is defined, or in the names that are handed over.
    plan = plan_form(New, limits=LIMITS, namespace={"Document": Document})
    assert [each.storage_key for each in plan.files()] == ["documents", "scans"]

    class Wrong(UploadDTO):
        file: Annotated[StagedFile, Upload(Document.title)]

    with pytest.raises(ConfigurationError, match=r"Wrong\.file"):
        plan_form(Wrong, limits=LIMITS, namespace={"Document": Document})


def test_what_cannot_work_is_refused_naming_the_field() -> None:
    class NoFile(UploadDTO):
        title: str

    class NoRules(UploadDTO):
        file: StagedFile

    class NoTarget(UploadDTO):
        file: Annotated[StagedFile, Upload]

    class NotAFile(UploadDTO):
        file: Annotated[bytes, Upload("documents")]

    class None_(UploadDTO):
        file: Annotated[list[StagedFile], Upload("documents", max_count=0)]

    class Unknown(UploadDTO):
        file: Annotated[StagedFile, Upload("documents")]
        other: NotImported  # type: ignore[name-defined] # noqa: F821

    for dto, message in [
        (NoFile, "NoFile has no file"),
        (NoRules, r"NoRules\.file: a file needs its rules"),
        (NoTarget, "Upload needs its target"),
        (NotAFile, r"NotAFile\.file: Upload"),
        (None_, "max_count"),
        (Unknown, "NotImported"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            plan_form(dto, limits=LIMITS)


# ------------------------------------------------------------------------------------------------------------- texts
@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (str, "  naïve ", "  naïve "),
        (str, "", ""),
        (int, "3", 3),
        (float, "2.5", 2.5),
        (decimal.Decimal, "2.50", decimal.Decimal("2.50")),
        (bool, "true", True),
        (bool, "on", True),
        (bool, "off", False),
        (bool, "0", False),
        (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678123456781234567812345678")),
        (dt.date, "2024-02-29", dt.date(2024, 2, 29)),
        (dt.datetime, "2024-02-29T12:00", dt.datetime(2024, 2, 29, 12)),  # noqa: DTZ001 - as browsers send it
        (Colour, "blue", Colour.BLUE),
        (Literal["a", "b"], "a", "a"),
        (int | None, "4", 4),
        (int | None, "", None),
        (dt.date | None, "", None),
        (str | None, "", ""),
        (list[str], "x", ["x"]),
        (list[int], "1", [1]),
        (Annotated[int, Meta(gt=2)], "3", 3),
    ],
)
def test_a_text_becomes_what_its_field_is(kind: Any, value: str, expected: object) -> None:
    draft = draft_of(form_with(kind))
    text(draft, "field", value)
    file(draft, "file")
    assert finished(draft).field == expected


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        (int, "x", "invalid"),
        (int, "", "required"),
        (bool, "maybe", "invalid"),
        (uuid.UUID, "1", "invalid"),
        (Colour, "green", "invalid"),
        (Annotated[str, Meta(min_length=1)], "", "invalid"),
        (Annotated[int, Meta(gt=2)], "1", "invalid"),
        (list[int], "x", "invalid"),
        (list[int], "", "required"),
    ],
)
def test_a_text_that_does_not_fit_is_told_with_its_field(kind: Any, value: str, code: str) -> None:
    draft = draft_of(form_with(kind))
    file(draft, "file")
    text(draft, "field", value)
    assert wrong(draft) == [("field", code)]


class Typed(UploadDTO):
    title: str
    count: int = 7
    day: dt.date | None
    flags: list[bool] = []
    data: dict[str, int] = {}
    file: FILE


def test_absent_fields_take_their_default_and_absent_optional_ones_none() -> None:
    draft = draft_of(Typed)
    text(draft, "title", "x")
    text(draft, "count", "")
    file(draft, "file")
    form = finished(draft)
    assert (form.count, form.day, form.flags) == (7, None, [])


def test_fields_of_a_list_come_several_times() -> None:
    draft = draft_of(Typed)
    text(draft, "title", "x")
    for value in ("on", "false", ""):
        text(draft, "flags", value)
    file(draft, "file")
    assert finished(draft).flags == [True, False]


def test_a_part_of_json_is_understood() -> None:
    draft = draft_of(Typed)
    text(draft, "title", "x")
    text(draft, "data", '{"a": 1}', content_type="application/json")
    text(draft, "flags", "[true, false]", content_type="application/json")
    file(draft, "file")
    form = finished(draft)
    assert (form.data, form.flags) == ({"a": 1}, [True, False])
    for no_json in ("{", "[" * 200_000, '{"a":' * 200_000):
        draft = draft_of(Typed, limits=FormLimits(max_field_size=2_000_000, max_text_size=2_000_000))
        text(draft, "data", no_json, content_type="application/json")
        assert ("data", "invalid") in wrong(draft)


def test_latin_1_is_understood_and_what_is_no_text_is_told() -> None:
    draft = draft_of(Typed)
    draft.add_text(PartHead("title", None, "text/plain", "iso-8859-1"), "é".encode("latin-1"))
    draft.add_text(PartHead("count", None, None, "utf-16"), b"\xff\xfe1\x00")
    file(draft, "file")
    assert wrong(draft) == [("count", "invalid")]
    assert draft.texts == [("title", "é")]


def test_a_value_that_comes_twice_is_an_error() -> None:
    draft = draft_of(Typed)
    for value in "abc":
        text(draft, "title", value)
    file(draft, "file")
    assert wrong(draft) == [("title", "duplicate")]


def test_what_is_wrong_is_told_all_at_once_in_the_order_of_the_fields() -> None:
    draft = draft_of(Typed)
    text(draft, "day", "tomorrow")
    text(draft, "count", "many")
    assert wrong(draft) == [("title", "required"), ("count", "invalid"), ("day", "invalid"), ("file", "required")]


def test_what_a_class_finds_wrong_with_its_fields_together_is_told_without_a_field() -> None:
    class Range(UploadDTO):
        low: int
        high: int
        file: FILE

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low must not be above high")

    draft = draft_of(Range)
    text(draft, "low", "2")
    text(draft, "high", "1")
    file(draft, "file")
    assert wrong(draft) == [("", "invalid")]
    assert draft.errors[0].message == "low must not be above high"


@pytest.mark.parametrize(("sizes", "limit"), [([11], 10), ([8, 8, 8], 20)])
def test_text_is_limited_by_field_and_in_all(sizes: list[int], limit: int) -> None:
    draft = draft_of(Typed, limits=FormLimits(max_field_size=10, max_text_size=20))
    with pytest.raises(ContentTooLargeError) as caught:
        for size in sizes:
            draft.admit_text("title", size, size)
    assert (caught.value.field, caught.value.limit) == ("title", limit)


# ------------------------------------------------------------------------------------------------------------- files
class Files(UploadDTO, forbid_unknown_fields=True):
    one: FILE
    some: Annotated[list[StagedFile], Upload("pages", max_count=2), Meta(min_length=2)] = []


def test_files_arrive_as_they_were_staged() -> None:
    draft = draft_of(Files)
    assert all([file(draft, "one"), file(draft, "some"), file(draft, "some")])
    form = finished(draft)
    assert isinstance(form.one, StagedFile)
    assert len(form.some) == 2


def test_a_second_file_and_one_too_many_are_errors() -> None:
    draft = draft_of(Files)
    assert file(draft, "one")
    assert not file(draft, "one")
    assert not file(draft, "one")
    assert wrong(draft) == [("one", "duplicate")]
    draft = draft_of(Files)
    file(draft, "one")
    assert [file(draft, "some") for _ in range(4)] == [True, True, False, False]
    assert wrong(draft) == [("some", "too_many")]
    assert draft.errors[0].to_dict() == {
        "field": "some",
        "code": "too_many",
        "message": "at most 2 files are taken",
        "limit": 2,
        "value": 3,
    }


def test_too_few_files_are_an_error_where_the_class_says_so() -> None:
    draft = draft_of(Files)
    file(draft, "one")
    file(draft, "some")
    assert wrong(draft) == [("some", "invalid")]


def test_text_for_a_file_and_a_file_for_text_are_errors() -> None:
    draft = draft_of(Typed)
    assert not file(draft, "file", filename=None)
    assert draft.fate_of(PartHead("title", "a.txt", "text/plain", None)) == "ignore"
    assert wrong(draft) == [("title", "not_text"), ("file", "not_a_file")]


def test_a_part_with_a_type_but_no_name_is_a_file() -> None:
    assert file(draft_of(Typed), "file", filename=None, content_type="application/pdf")


def test_an_empty_file_input_is_no_text_and_no_error() -> None:
    draft = draft_of(Typed)
    assert draft.fate_of(PartHead("count", "", "application/octet-stream", None)) == "ignore"
    assert not draft.errors


def test_unknown_fields_are_passed_over_unless_the_class_forbids_them() -> None:
    draft = draft_of(Typed)
    assert draft.fate_of(PartHead("other", None, None, None)) == "text"
    assert draft.fate_of(PartHead("other", "a.txt", None, None)) == "ignore"
    assert not draft.errors
    draft = draft_of(Files)
    draft.fate_of(PartHead("_csrf_token", None, None, None))
    draft.fate_of(PartHead("other", None, None, None))
    file(draft, "one")
    assert wrong(draft) == [("other", "unknown"), ("one", "required")] or wrong(draft)[0] == ("other", "unknown")


def test_files_of_a_form_that_is_not_valid_are_not_stored_and_not_missed() -> None:
    draft = draft_of(Typed)
    text(draft, "title", "x")
    text(draft, "count", "x")
    assert not file(draft, "file")
    assert wrong(draft) == [("count", "invalid")]


def test_ignored_bytes_are_limited() -> None:
    draft = draft_of(Typed, limits=FormLimits(max_ignored_size=10))
    assert draft.ignore("other", 10)
    with pytest.raises(ContentTooLargeError) as caught:
        draft.ignore("other", 1)
    assert (caught.value.field, caught.value.limit, caught.value.value) == ("other", 10, 11)
    draft = draft_of(Typed, limits=FormLimits(max_ignored_size=10))
    text(draft, "count", "x")
    assert not draft.ignore("other", 11), "with something to tell already, that is told"
