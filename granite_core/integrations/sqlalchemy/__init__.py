"""Files as columns of SQLAlchemy models, kept in step with the session's transactions."""

from typing import TYPE_CHECKING, Final

from granite_core._exports import exports_when_asked_for
from granite_core.integrations.sqlalchemy.fields import file_field, files_field
from granite_core.integrations.sqlalchemy.links import link_column, link_content, link_query
from granite_core.integrations.sqlalchemy.references import (
    file_columns,
    held_locations,
    iter_model_storage_refs,
    ref_location,
)
from granite_core.integrations.sqlalchemy.sqlite import prepare_sqlite
from granite_core.integrations.sqlalchemy.tables import GraniteTables, db_now, tables_of
from granite_core.integrations.sqlalchemy.types import (
    StorageJSONType,
    StoredObjectRefListType,
    StoredObjectRefType,
    is_file_column,
    portable_storage_ref_type,
)
from granite_core.integrations.sqlalchemy.unit_of_work import install

if TYPE_CHECKING:
    from granite_core.integrations.sqlalchemy._row_files import RowFile
    from granite_core.integrations.sqlalchemy.backfill import BackfillReport, backfill_files
    from granite_core.integrations.sqlalchemy.ledger import SQLAlchemyLedger
    from granite_core.integrations.sqlalchemy.mixin import ReplaceContentResult, StoredContentMixin, UploadedFile
    from granite_core.integrations.sqlalchemy.quotas import SQLAlchemyQuotaLedger
    from granite_core.integrations.sqlalchemy.uploads import SQLAlchemyUploadLedger

__all__ = [
    "BackfillReport",
    "GraniteTables",
    "ReplaceContentResult",
    "RowFile",
    "SQLAlchemyLedger",
    "SQLAlchemyQuotaLedger",
    "SQLAlchemyUploadLedger",
    "StorageJSONType",
    "StoredContentMixin",
    "StoredObjectRefListType",
    "StoredObjectRefType",
    "UploadedFile",
    "backfill_files",
    "db_now",
    "file_columns",
    "file_field",
    "files_field",
    "held_locations",
    "is_file_column",
    "iter_model_storage_refs",
    "link_column",
    "link_content",
    "link_query",
    "portable_storage_ref_type",
    "prepare_sqlite",
    "ref_location",
    "tables_of",
]

_WHEN_ASKED_FOR: Final = {
    "BackfillReport": "granite_core.integrations.sqlalchemy.backfill",
    "ReplaceContentResult": "granite_core.integrations.sqlalchemy.mixin",
    "RowFile": "granite_core.integrations.sqlalchemy._row_files",
    "SQLAlchemyLedger": "granite_core.integrations.sqlalchemy.ledger",
    "SQLAlchemyQuotaLedger": "granite_core.integrations.sqlalchemy.quotas",
    "SQLAlchemyUploadLedger": "granite_core.integrations.sqlalchemy.uploads",
    "StoredContentMixin": "granite_core.integrations.sqlalchemy.mixin",
    "UploadedFile": "granite_core.integrations.sqlalchemy.mixin",
    "backfill_files": "granite_core.integrations.sqlalchemy.backfill",
}

__getattr__, __dir__ = exports_when_asked_for(__name__, _WHEN_ASKED_FOR)

# Whoever declares a file column has imported this package: no session, however it is made, is without the listeners.
install()
