"""One file, as the body itself or as the only part of a form: for routes that serve pages and programs alike."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from granite_core import StagedFile
from granite_litestar._form_body import FORM, FormBodyPlan, bare_type
from granite_litestar._form_draft import FormDraft
from granite_litestar._form_plan import Upload, UploadDTO
from granite_litestar._raw_body import RawBodyPlan, RawUpload
from granite_litestar._streaming import UploadRequest
from granite_litestar.exceptions import FormValidationError

__all__ = ["EitherBodyPlan", "EitherUpload"]


class EitherUpload(RawUpload):
    """Marks a handler's ``data`` as one file, as the body itself or as the part ``field`` of a form."""

    def form(self) -> type[UploadDTO]:
        """Return the form, as an ``UploadDTO``."""
        hints: dict[str, Any] = {self.field: Annotated[StagedFile, Upload(self.target, description=self.description)]}
        made: Any = type(UploadDTO)
        form: type[UploadDTO] = made("StagedForm", (UploadDTO,), {"__annotations__": hints, "__module__": __name__})
        return form


class EitherBodyPlan(msgspec.Struct, frozen=True):
    """Takes one file in, whichever way it comes.

    Args:
        raw: Takes the body itself in.
        form: Takes the form in.
    """

    raw: RawBodyPlan
    form: FormBodyPlan

    @property
    def described(self) -> RawBodyPlan:
        """What the API's description tells of first."""
        return self.raw

    @property
    def max_body(self) -> int | None:
        """Largest body in bytes by the application's setting; the policy's limit holds for the file."""
        return self.raw.max_body

    def adapt(self, upload: UploadRequest) -> None:
        """Nothing to change."""

    async def read(self, upload: UploadRequest) -> bytes:
        """Stage the file, and return a stand-in for the body."""
        if bare_type(upload) != FORM:
            return await self.raw.read(upload)
        stand_in = await self.form.read(upload)
        draft = upload.result
        built = draft.build() if isinstance(draft, FormDraft) else None
        if built is None:
            raise FormValidationError(draft.errors)
        upload.result = getattr(built, self.raw.field)
        return stand_in
