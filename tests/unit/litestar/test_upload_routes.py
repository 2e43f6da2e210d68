"""Whether a request may replace a file (RFC 9110 section 13.1)."""

from __future__ import annotations

import pytest

from granite_litestar.upload_routes import precondition_holds

TAG = '"abc"'


@pytest.mark.parametrize(
    ("headers", "there", "absent"),
    [
        ({}, True, True),
        ({"if-match": "*"}, True, False),
        ({"if-match": TAG}, True, False),
        ({"if-match": '"x", "abc"'}, True, False),
        ({"if-match": 'W/"abc"'}, False, False),
        ({"if-match": '"x"'}, False, False),
        ({"if-match": "abc"}, False, False),
        ({"if-none-match": "*"}, False, True),
        ({"if-none-match": TAG}, False, True),
        ({"if-none-match": 'W/"abc"'}, False, True),
        ({"if-none-match": '"x", "y,abc"'}, True, True),
        ({"if-match": TAG, "if-none-match": "*"}, True, False),
    ],
)
def test_a_precondition_is_held_against_what_is_there(headers: dict[str, str], there: bool, absent: bool) -> None:
    assert precondition_holds(headers, TAG) is there
    assert precondition_holds(headers, None) is absent
