"""What the API's description says of forms that do not validate."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from granite_core.uploads import StagedToken
from granite_litestar._openapi_problems import Code, Detail, Limit, Value

__all__ = ["FieldProblem", "FormProblem"]


class FieldProblem(msgspec.Struct):
    """What is wrong with one field of a form."""

    field: Annotated[str, Meta(description="The field's name; empty where the form as a whole is wrong.")]
    code: Code
    message: Annotated[str, Meta(description="What a person can be told.")]
    limit: Limit = UNSET
    value: Value = UNSET


class FormProblem(msgspec.Struct):
    """Why a form was refused: every field that is wrong."""

    status_code: Literal[422]
    detail: Detail
    extra: list[FieldProblem]
    staged: Annotated[
        dict[str, list[StagedToken]] | UnsetType,
        Meta(description="Tokens of the files that are kept, by field: hand them in with the form's next try."),
    ] = UNSET
