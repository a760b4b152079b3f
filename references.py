"""Documents that every turn of a project, or of one conversation, is given to read.

A reference names one version of a document, and keeps to it when later versions come.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, or_
from sqlmodel import Session, col, delete, select

from db import require
from errors import ServiceError
from models import Conversation, Document, DocumentReference, Project, ReferencePublic
from statements import Statement

TO_READ = Statement(
    select(col(Document.id), col(Document.filename), col(Document.content))
    .join(DocumentReference, col(DocumentReference.document_id) == col(Document.id))
    .where(
        or_(
            col(DocumentReference.conversation_id) == bindparam("conversation"),
            and_(
                col(DocumentReference.project_id) == bindparam("project"),
                col(DocumentReference.conversation_id).is_(None),
            ),
        )
    )
    .order_by(col(DocumentReference.conversation_id).is_not(None), col(DocumentReference.id))
)

Found = Sequence[tuple[DocumentReference, Document]]


def of_project(session: Session, project_id: int) -> Found:
    return _found(session, _of(project_id, None))


def of_conversation(session: Session, conversation_id: str) -> Found:
    return _found(session, _of(0, conversation_id))


def documents(session: Session, conversation: Conversation) -> list[Any]:
    """What a conversation's turns are given to read: its project's documents, then its own."""
    return TO_READ.rows(session, project=conversation.project_id, conversation=conversation.id)


def public(found: Found) -> list[ReferencePublic]:
    return [
        ReferencePublic(
            **reference.model_dump(),
            document_filename=document.filename,
            document_content=document.content,
            document_version=document.version,
            document_created_time=document.created_time,
        )
        for reference, document in found
    ]


def set_for_project(session: Session, project_id: int, ids: list[int]) -> tuple[int, int, Found]:
    """Make these the project's references: how many were added, how many removed, and all."""
    require(session, Project, project_id)
    added, removed = _replace(session, project_id, None, ids)
    return added, removed, of_project(session, project_id)


def set_for_conversation(
    session: Session, conversation_id: str, ids: list[int]
) -> tuple[int, int, Found]:
    """The same for a conversation: of its project's documents, those not referenced by that."""
    conversation = require(session, Conversation, conversation_id)
    wanted = [require(session, Document, document_id) for document_id in ids]
    foreign = [d.id for d in wanted if d.project_id != conversation.project_id]
    if foreign:
        raise ServiceError(f"Documents not in the conversation's project: {foreign}", status=400)
    known = {d.id for _, d in of_project(session, conversation.project_id)}
    if twice := [document_id for document_id in dict.fromkeys(ids) if document_id in known]:
        raise ServiceError(f"Documents already referenced at project level: {twice}", status=400)
    added, removed = _replace(session, conversation.project_id, conversation_id, ids)
    return added, removed, of_conversation(session, conversation_id)


def _of(project_id: int, conversation_id: str | None) -> tuple[ColumnElement[bool], ...]:
    """The condition that picks a conversation's references, or a project's own."""
    if conversation_id is not None:
        return (col(DocumentReference.conversation_id) == conversation_id,)
    return (
        col(DocumentReference.project_id) == project_id,
        col(DocumentReference.conversation_id).is_(None),
    )


def _found(session: Session, which: tuple[ColumnElement[bool], ...]) -> Found:
    query = select(DocumentReference, Document).where(
        *which, col(DocumentReference.document_id) == col(Document.id)
    )
    return session.exec(query.order_by(col(DocumentReference.id))).all()


def _replace(
    session: Session, project_id: int, conversation_id: str | None, ids: list[int]
) -> tuple[int, int]:
    which = _of(project_id, conversation_id)
    before = {reference.document_id for reference, _ in _found(session, which)}
    wanted = dict.fromkeys(ids)
    removed = before - wanted.keys()
    gone = col(DocumentReference.document_id).in_(removed)
    session.exec(delete(DocumentReference).where(*which, gone))
    added = [document_id for document_id in wanted if document_id not in before]
    for document_id in added:
        require(session, Document, document_id)
        session.add(
            DocumentReference(
                project_id=project_id,
                conversation_id=conversation_id,
                document_id=document_id,
                reference_type="conversation" if conversation_id else "project",
            )
        )
    session.flush()
    return len(added), len(removed)
