"""The versions of documents: added, moved and compared, never overwritten.

A document is known by project, category and filename; its versions are rows of their own.
"""

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, or_, text, tuple_
from sqlmodel import Session, col, select

from db import ensure_project, require
from errors import Conflict, NotFound
from fields import now
from models import Category, Document, DocumentPublic

# Documents, among those asked for, with a source message that was edited or deleted since.
CHANGED = text(
    """
    SELECT DISTINCT plan_document.id
    FROM plan_document, json_each(plan_document.message_ids) AS source
    LEFT JOIN message ON message.id = source.value
    WHERE plan_document.id IN (SELECT value FROM json_each(:ids))
      AND (message.id IS NULL OR message.updated_at > plan_document.read_at)
    """
)


def of(project_id: int, category_id: int, filename: str) -> tuple[ColumnElement[bool], ...]:
    """The condition that picks all versions of one document."""
    return (
        col(Document.project_id) == project_id,
        col(Document.category_id) == category_id,
        col(Document.filename) == filename,
    )


def history(
    session: Session, project_id: int, category_id: int, filename: str
) -> Sequence[Document]:
    """Every version of one document, the newest first."""
    query = select(Document).where(*of(project_id, category_id, filename))
    return session.exec(query.order_by(col(Document.version).desc())).all()


def next_version(session: Session, project_id: int, category_id: int, filename: str) -> int:
    newest = select(func.max(Document.version)).where(*of(project_id, category_id, filename))
    return (session.exec(newest).one() or 0) + 1


def add(session: Session, document: Document, version: int | None = None) -> Document:
    """Store a new version: `version` when it is free, else the next number."""
    require(session, Category, document.category_id)
    ensure_project(session, document.project_id)
    same = (document.project_id, document.category_id, document.filename)
    taken = select(Document.id).where(*of(*same), Document.version == version)
    if version is None or session.exec(taken).first() is not None:
        version = next_version(session, *same)
    document.version = version
    session.add(document)
    session.flush()
    return document


def public(session: Session, documents: Sequence[Document]) -> list[DocumentPublic]:
    """Documents as they are shown; `stale` where a message they were made from has changed."""
    made = [document.id for document in documents if document.message_ids]
    changed = session.execute(CHANGED, {"ids": json.dumps(made)}) if made else ()
    stale = {document_id for (document_id,) in changed}
    return [
        DocumentPublic.model_validate(document, update={"stale": document.id in stale})
        for document in documents
    ]


def latest(
    session: Session,
    conditions: Sequence[ColumnElement[bool]],
    order: Sequence[ColumnElement[Any]],
    offset: int,
    limit: int,
) -> tuple[int, Sequence[Document]]:
    """A page of the newest versions that meet the conditions, and how many there are in all."""
    known_by = (col(Document.project_id), col(Document.category_id), col(Document.filename))
    newest = select(*known_by, func.max(Document.version)).group_by(*known_by)
    is_newest = tuple_(*known_by, col(Document.version)).in_(newest)
    query = select(Document).where(is_newest, *conditions)
    total = session.exec(select(func.count()).select_from(query.subquery())).one()
    return total, session.exec(query.order_by(*order).offset(offset).limit(limit)).all()


def contains(wanted: str) -> ColumnElement[bool]:
    """Documents with this in their name or content; the case of Latin letters does not matter."""
    lowered = func.lower(wanted)
    return or_(
        func.instr(func.lower(col(Document.filename)), lowered) > 0,
        func.instr(func.lower(col(Document.content)), lowered) > 0,
    )


def move_history(
    session: Session, project_id: int, source_id: int, target_id: int, filename: str
) -> tuple[int, int]:
    """Move all versions to another category, behind those it has; the first and last number there.

    The rows keep their ids, so what refers to a version still does.
    """
    if source_id == target_id:
        raise Conflict("The document is in that category already")
    require(session, Category, target_id)
    moving = history(session, project_id, source_id, filename)[::-1]
    if not moving:
        raise NotFound("Document")
    first = next_version(session, project_id, target_id, filename)
    for version, document in enumerate(moving, first):
        document.category_id, document.version = target_id, version
        document.updated_time = now()
        session.flush()
    return first, first + len(moving) - 1


def pair(
    session: Session, document_id: int, against_id: int | None
) -> tuple[Document | None, Document]:
    """This version and the one to compare it with: by default the one before, if there is one."""
    document = require(session, Document, document_id)
    if against_id:
        return require(session, Document, against_id), document
    same = of(document.project_id, document.category_id, document.filename)
    query = select(Document).where(*same, Document.version < document.version)
    return session.exec(query.order_by(col(Document.version).desc())).first(), document


def diff(before: Document | None, after: Document) -> str:
    """A unified diff. Lines end in LF alone, so that every other difference shows."""
    lines = difflib.unified_diff(
        _lines(before.content) if before else [],
        _lines(after.content),
        _label(before) if before else "/dev/null",
        _label(after),
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _label(document: Document) -> str:
    return f"{document.filename} (version {document.version})"
