"""What a file column writes is what the engine's JSON writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine

from granite_core import StoredObjectRef
from granite_core.integrations.sqlalchemy import StoredObjectRefType

TEXTS = st.text(max_size=20)
REFS = st.builds(
    StoredObjectRef,
    TEXTS,
    TEXTS,
    TEXTS.filter(bool),
    st.integers(0, 2**63),
    TEXTS,
    content_type=st.none() | TEXTS,
    original_filename=st.none() | TEXTS,
    created_at=st.none() | TEXTS,
    extra=st.none() | st.dictionaries(TEXTS, TEXTS | st.integers() | st.none(), max_size=3),
)


def written_by(ref: StoredObjectRef | None, **options: Any) -> object:
    dialect = create_engine("sqlite://", **options).dialect
    process = StoredObjectRefType("files").dialect_impl(dialect).bind_processor(dialect)
    assert process is not None
    return process(ref)


@given(REFS)
def test_a_ref_is_written_as_json_writes_it(ref: StoredObjectRef) -> None:
    assert written_by(ref) == json.dumps(ref.to_dict())


@pytest.mark.parametrize("options", [{"ensure_ascii": False}, {"sort_keys": True}, {"separators": (",", ":")}])
def test_a_serialiser_of_ones_own_is_heeded(options: dict[str, Any]) -> None:
    ref = StoredObjectRef("f", "main", "a/\u00e9", 1)
    text = json.dumps(ref.to_dict(), **options)
    assert written_by(ref, json_serializer=lambda value: json.dumps(value, **options)) == text


def test_no_file_is_null() -> None:
    assert written_by(None) is None
