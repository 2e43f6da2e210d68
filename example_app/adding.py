"""A form for a large file: uploaded in pieces while one types, and submitted as a token with the rest of the form.

Without its script, or without the library that the script uses, it is a plain form that sends the file itself. A form
that does not validate is shown again, and has its files still.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import jinja2
import msgspec
from litestar import Request, get, post
from litestar.contrib.jinja import JinjaTemplateEngine
from litestar.di import NamedDependency
from litestar.params import MultipartBody
from litestar.response import Redirect, Template
from litestar.template import TemplateConfig
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from example_app.models import Item
from example_app.pages import PAGE, PAGE_HEADERS, page_file
from example_app.settings import Settings
from granite_core import ContentRejectedError, ContentTooLargeError, StagedFile
from granite_litestar import FieldError, FormValidationError, RequestTokens, ResumableUploads, Upload, UploadDTO

__all__ = ["add", "adding_files", "adding_template", "large_uploads", "show_form"]

TUS_CLIENT_INTEGRITY = "sha384-UlHjK3F7TCQCEUpnoa1ohMbP2oaWB3Aypv4gMo511vaZ86uUZ0Zv7UzZ0J1zRUT1"
"""Of ``dist/tus.min.js`` in the version that ``page/package.json`` names: browsers run no other."""

large_uploads = ResumableUploads("/uploads", storage_key="library", public=True)  # yours has guards and a subject

WORDS = {("title", "invalid"): "a title has 3 to 200 letters"}


class LargeItem(UploadDTO):
    """What the form sends: files, or in the place of each the token of an upload."""

    __keep_files__ = True  # a form that is refused tells the tokens of the files that came with it

    title: Annotated[str, msgspec.Meta(min_length=3, max_length=200)]
    file: Annotated[StagedFile, Upload(Item.file, tokens=True)]
    attachments: Annotated[list[StagedFile], Upload(Item.attachments, max_count=20, tokens=True)] = msgspec.field(
        default_factory=list
    )


@get("/add", include_in_schema=False)
async def show_form() -> Template:
    return form()


def show_again(_: Request[Any, Any, Any], error: FormValidationError) -> Template:
    """Show what is wrong, what was typed, and the files that are here already."""
    return form(error.status_code, errors=error.errors, texts=dict(error.texts), staged=error.staged)


def show_refusal(_: Request[Any, Any, Any], error: ContentRejectedError) -> Template:
    """Show why a file that came with the form is not taken: it ended the request, and what was typed is lost."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(error, ContentTooLargeError):
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return form(status, errors=[FieldError(error.field or "file", error.code, error.public_message)])


@post(
    "/add",
    exception_handlers={FormValidationError: show_again, ContentRejectedError: show_refusal},
    include_in_schema=False,
)
async def add(
    data: MultipartBody[LargeItem],
    db_session: NamedDependency[AsyncSession],
    file_tokens: NamedDependency[RequestTokens],
) -> Redirect:
    if await db_session.scalar(select(Item.id).where(Item.title == data.title).limit(1)):
        raise await file_tokens.refusal([FieldError("title", "taken", "there is something of this title already")])
    db_session.add(Item(title=data.title, file=data.file, attachments=[*data.attachments]))
    await db_session.commit()  # the row has the files now; their tokens are good no more
    return Redirect("/", status_code=303)


def form(
    status: int = HTTPStatus.OK,
    *,
    errors: Any = (),
    texts: dict[str, str] | None = None,
    staged: dict[str, Any] | None = None,
) -> Template:
    """The page with the form."""
    context = {
        "errors": {each.field: WORDS.get((each.field, each.code), each.message) for each in errors},
        "texts": texts or {},
        "staged": staged or {},
    }
    headers = PAGE_HEADERS | ({"Cache-Control": "no-store"} if staged else {})  # a token is a permission
    return Template("add.html", context=context, status_code=status, headers=headers)


def adding_template(settings: Settings) -> TemplateConfig[JinjaTemplateEngine]:
    """How the form's page is made."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGE), autoescape=True)
    environment.globals |= {
        "integrity": TUS_CLIENT_INTEGRITY if settings.tus_client.is_file() else None,
        "max_size": settings.max_size,
        "bytes": told,
    }
    return TemplateConfig(instance=JinjaTemplateEngine.from_environment(environment))


def told(size: int) -> str:
    """A number of bytes as the pages' script tells it."""
    value, unit = float(size), 0
    while value >= 1023.5 and unit < 4:
        value, unit = value / 1024, unit + 1
    return f"{value:.{int(value < 10 and unit > 0)}f}".removesuffix(".0") + f" {('B', 'KB', 'MB', 'GB', 'TB')[unit]}"


def adding_files(settings: Settings) -> list[Any]:
    """Routes for what the page loads: its script, and tus-js-client where it was installed."""
    files = [page_file(PAGE / "add.js", "text/javascript")]
    if settings.tus_client.is_file():
        files.append(page_file(settings.tus_client, "text/javascript", "/tus.min.js"))
    return files
