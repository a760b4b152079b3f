import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from sqlalchemy import ColumnElement
from sqlmodel import Field, Session, col

import context
import versions
from db import require
from fields import MAX_ID
from models import (
    Diff,
    Document,
    DocumentCreate,
    DocumentIds,
    DocumentPage,
    DocumentPublic,
    DocumentUpdate,
    Done,
    Merged,
    MigrateCurrent,
    MigratedHistory,
    MigrateHistory,
)
from routes.deps import Absent, DatabaseDep, PathId, QueryId, QueryText, errors

router = APIRouter(prefix="/v1/plan/documents", tags=["plan documents"])

SortBy = Literal["created_time", "updated_time", "filename", "version", "id"]


@router.post("", response_model=DocumentPublic, responses=errors(404))
async def create_document(body: DocumentCreate, db: DatabaseDep) -> object:
    """Store a document; a `version` that is taken becomes the next free one."""
    return await db.write(_create, body)


@router.get("/history", responses=errors())
async def document_history(
    project_id: Annotated[int, Query(ge=0, le=MAX_ID)],
    category_id: Annotated[int, Query(ge=0, le=MAX_ID)],
    filename: str,
    db: DatabaseDep,
) -> list[DocumentPublic]:
    """Every version of one document, the newest first."""
    return await db.read(_history, project_id, category_id, filename)


@router.get("/latest", responses=errors())
async def latest_documents(
    db: DatabaseDep,
    project_id: QueryId = None,
    category_id: QueryId = None,
    query: QueryText = None,
    sort_by: Annotated[SortBy | None, Absent, Query()] = None,
    order: Annotated[Literal["asc", "desc"] | None, Absent, Query()] = None,
    page: Annotated[Annotated[int, Field(ge=1, le=1_000_000)] | None, Absent, Query()] = None,
    page_size: Annotated[Annotated[int, Field(ge=1, le=1000)] | None, Absent, Query()] = None,
) -> DocumentPage:
    """The newest version of each document whose name or text contains `query`."""
    conditions: list[ColumnElement[bool]] = []
    if project_id is not None:
        conditions.append(col(Document.project_id) == project_id)
    if category_id is not None:
        conditions.append(col(Document.category_id) == category_id)
    if query is not None:
        conditions.append(versions.contains(query))
    column = col(getattr(Document, sort_by or "created_time"))
    ordered = [key.asc() if order == "asc" else key.desc() for key in (column, col(Document.id))]
    page, size = page or 1, page_size or 20
    total, items = await db.read(_latest, conditions, ordered, (page - 1) * size, size)
    return DocumentPage(total=total, page=page, page_size=size, items=items)


@router.post("/merge", responses=errors(404))
async def merge_documents(body: DocumentIds, db: DatabaseDep) -> Merged:
    """Join documents in the order given, each once and between lines that name it."""
    documents = await db.read(_all, body.document_ids)
    return Merged(count=len(documents), merged=context.merge(documents))


@router.post("/migrate/all-history", responses=errors(404, 409))
async def migrate_history(body: MigrateHistory, db: DatabaseDep) -> MigratedHistory:
    """Move every version of a document to another category, behind the versions it has there."""
    return await db.write(_migrate_history, body)


@router.post("/migrate/from-current", response_model=DocumentPublic, responses=errors(404))
async def migrate_current(body: MigrateCurrent, db: DatabaseDep) -> object:
    """Copy one version to another category, as the next version there."""
    return await db.write(_migrate_current, body)


@router.get("/{document_id}", responses=errors(404))
async def get_document(document_id: PathId, db: DatabaseDep) -> DocumentPublic:
    return await db.read(_one, document_id)


@router.put("/{document_id}", response_model=DocumentPublic, responses=errors(404))
async def update_document(document_id: PathId, body: DocumentUpdate, db: DatabaseDep) -> object:
    """Store the next version, with what is sent changed; the version itself stays as it is."""
    return await db.write(_update, document_id, body)


@router.delete("/{document_id}", responses=errors(404))
async def delete_document(document_id: PathId, db: DatabaseDep) -> Done:
    """Delete one version."""
    await db.write(_delete, document_id)
    return Done(message="Document deleted successfully")


@router.get("/{document_id}/diff", responses=errors(404))
async def diff_documents(document_id: PathId, db: DatabaseDep, against: QueryId = None) -> Diff:
    """A unified diff from `against`, by default the version before, to this version."""
    before, after = await db.read(versions.pair, document_id, against)
    # Long texts take seconds to compare: other requests need not wait for it.
    text = await asyncio.to_thread(versions.diff, before, after)
    return Diff(document_id=document_id, against=before.id if before else None, diff=text)


def _one(session: Session, document_id: int) -> DocumentPublic:
    (document,) = versions.public(session, [require(session, Document, document_id)])
    return document


def _history(
    session: Session, project_id: int, category_id: int, filename: str
) -> list[DocumentPublic]:
    return versions.public(session, versions.history(session, project_id, category_id, filename))


def _latest(session: Session, *page: Any) -> tuple[int, list[DocumentPublic]]:
    total, documents = versions.latest(session, *page)
    return total, versions.public(session, documents)


def _create(session: Session, body: DocumentCreate) -> Document:
    document = Document(**body.model_dump(exclude={"version"}))
    return versions.add(session, document, body.version)


def _update(session: Session, document_id: int, body: DocumentUpdate) -> Document:
    return _copy(session, document_id, **{"source": "user", **body.changes()})


def _migrate_current(session: Session, body: MigrateCurrent) -> Document:
    name = {"filename": body.new_filename} if body.new_filename else {}
    return _copy(
        session, body.document_id, category_id=body.target_category_id, source=body.source, **name
    )


def _copy(session: Session, document_id: int, **changes: object) -> Document:
    """The next version of what the changes make of this one."""
    original = require(session, Document, document_id)
    same = original.model_dump(
        include={"project_id", "category_id", "filename", "content", "related_log_id"}
    )
    return versions.add(session, Document(**{**same, **changes}))


def _delete(session: Session, document_id: int) -> None:
    session.delete(require(session, Document, document_id))


def _all(session: Session, document_ids: list[int]) -> list[Document]:
    return [require(session, Document, document_id) for document_id in dict.fromkeys(document_ids)]


def _migrate_history(session: Session, body: MigrateHistory) -> MigratedHistory:
    first, last = versions.move_history(
        session,
        body.project_id,
        body.source_category_id,
        body.target_category_id,
        body.filename,
    )
    count = last - first + 1
    return MigratedHistory(
        message=f"{count} versions migrated",
        migrated_count=count,
        target_category_id=body.target_category_id,
        filename=body.filename,
        start_version=first,
        end_version=last,
    )
