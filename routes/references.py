from fastapi import APIRouter
from sqlmodel import Session

import references
from db import require
from models import (
    Conversation,
    Project,
    ReferencedDocuments,
    ReferenceIds,
    ReferencePublic,
    ReferencesChanged,
)
from routes.deps import DatabaseDep, PathId, errors

router = APIRouter(prefix="/v1", tags=["document references"])

PROJECT = "/projects/{project_id}/document-references"
CONVERSATION = "/chat/conversations/{conversation_id}/document-references"


@router.get(PROJECT, responses=errors(404))
async def project_references(project_id: PathId, db: DatabaseDep) -> list[ReferencePublic]:
    """The documents that every turn of a project is given to read."""
    return await db.read(_of_project, project_id)


@router.post(PROJECT, responses=errors(404))
async def set_project_references(
    project_id: PathId, body: ReferenceIds, db: DatabaseDep
) -> ReferencesChanged:
    """Replace the whole set."""
    return _changed(*await db.write(references.set_for_project, project_id, body.document_ids))


@router.delete(PROJECT, responses=errors(404))
async def clear_project_references(project_id: PathId, db: DatabaseDep) -> ReferencesChanged:
    return _changed(*await db.write(references.set_for_project, project_id, []))


@router.get(CONVERSATION, responses=errors(404))
async def conversation_references(conversation_id: str, db: DatabaseDep) -> list[ReferencePublic]:
    """The documents that a conversation's turns are given to read besides its project's."""
    return (await db.read(_of_conversation, conversation_id)).conversation_references


@router.post(CONVERSATION, responses=errors(400, 404))
async def set_conversation_references(
    conversation_id: str, body: ReferenceIds, db: DatabaseDep
) -> ReferencesChanged:
    """Replace the whole set, with documents of its project that the project does not reference."""
    changed = await db.write(references.set_for_conversation, conversation_id, body.document_ids)
    return _changed(*changed)


@router.delete(CONVERSATION, responses=errors(404))
async def clear_conversation_references(conversation_id: str, db: DatabaseDep) -> ReferencesChanged:
    return _changed(*await db.write(references.set_for_conversation, conversation_id, []))


@router.get("/chat/conversations/{conversation_id}/referenced-documents", responses=errors(404))
async def referenced_documents(conversation_id: str, db: DatabaseDep) -> ReferencedDocuments:
    """Everything a conversation's turns are given to read."""
    return await db.read(_of_conversation, conversation_id)


def _changed(added: int, removed: int, current: references.Found) -> ReferencesChanged:
    return ReferencesChanged(
        message="Document references updated",
        added_count=added,
        removed_count=removed,
        current_references=references.public(current),
    )


def _of_project(session: Session, project_id: int) -> list[ReferencePublic]:
    require(session, Project, project_id)
    return references.public(references.of_project(session, project_id))


def _of_conversation(session: Session, conversation_id: str) -> ReferencedDocuments:
    conversation = require(session, Conversation, conversation_id)
    found = references.of_project(session, conversation.project_id)
    return ReferencedDocuments(
        conversation_id=conversation_id,
        project_references=references.public(found),
        conversation_references=references.public(
            references.of_conversation(session, conversation_id)
        ),
    )
