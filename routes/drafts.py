from collections.abc import AsyncIterator

from fastapi import APIRouter
from sqlmodel import Session

import drafting
import events
import versions
from db import Database
from errors import UpstreamError
from models import DocumentPublic, Done, DraftPublic, Generate
from reply import Reply
from routes.deps import FOLLOWING, TURN, DatabaseDep, KeyDep, PathId, TurnsDep, errors

router = APIRouter(prefix="/v1/plan", tags=["plan documents"])


@router.post(
    "/documents/generate", response_model=DocumentPublic, responses=TURN, dependencies=[FOLLOWING]
)
async def generate_document(
    body: Generate, db: DatabaseDep, turns: TurnsDep, key: KeyDep
) -> object:
    """Make a document from a chat by a category's template, and store it as the next version.

    As a stream it runs like a turn, and like a turn it goes on whether or not anyone listens; the
    last event names the document.
    """
    reply = await turns.ask(drafting.Drafting(body.conversation_id, key, body=body))
    if body.stream:
        return events.stream(_draft_events(reply, db))
    outcome = await reply.finished()
    if outcome.error is not None:
        raise UpstreamError(outcome.error, status=outcome.error_status)
    if outcome.status != "complete":
        raise UpstreamError("The document was stopped; what there is of it is a draft", status=409)
    return await db.read(_document, reply)


@router.get("/drafts", response_model=list[DraftPublic])
async def list_drafts(db: DatabaseDep) -> object:
    """Documents in the making, and those that were cut off, the newest first."""
    return await db.read(drafting.unfinished)


@router.delete("/drafts/{draft_id}", responses=errors(404, 409))
async def discard_draft(draft_id: PathId, db: DatabaseDep) -> Done:
    """Throw away what was cut off."""
    await db.write(drafting.discard, draft_id)
    return Done(message="Draft deleted successfully")


def _document(session: Session, reply: Reply) -> DocumentPublic:
    (document,) = versions.public(session, [drafting.stored_document(session, reply)])
    return document


async def _draft_events(reply: Reply, db: Database) -> AsyncIterator[bytes]:
    yield events.event(
        content="",
        draft_id=reply.message_id,
        conversation_id=reply.conversation_id,
        session_id=reply.session_id,
    )
    async for piece in reply.follow():
        yield events.piece_event(piece)
    outcome = await reply.finished()
    stored = {}
    if outcome.status == "complete":
        document = await db.read(_document, reply)
        stored = {"document_id": document.id, "version": document.version}
    yield events.final_event(outcome, **stored) + events.DONE
