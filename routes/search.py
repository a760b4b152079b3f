from typing import Annotated, Literal

from fastapi import APIRouter, Query
from sqlalchemy import func
from sqlmodel import Field, Session, col, select

import index
import search
from models import Archived, Document, Done, Message, SearchPage
from routes.deps import Absent, DatabaseDep, From, QueryId, To, errors

router = APIRouter(prefix="/v1/search", tags=["search"])

LONGEST_QUERY = 1000

# Told here, checked by the search itself: there must be more than blanks.
SOMETHING = {"pattern": r"[^\s\x1c-\x1f\x85\ufe00-\ufe0f]"}

Words = Annotated[str, Query(max_length=LONGEST_QUERY, json_schema_extra=SOMETHING)]
Role = Annotated[Literal["user", "assistant", "system"] | None, Absent, Query()]
Status = Annotated[Archived | None, Absent, Query(description="0 normal, 1 archived")]
Limit = Annotated[
    Annotated[int, Field(ge=1, le=100)] | None, Absent, Query(description="20 unless told")
]
Offset = Annotated[Annotated[int, Field(ge=0, le=1_000_000)] | None, Absent, Query()]


@router.get("", responses=errors())
async def find(
    db: DatabaseDep,
    q: Words,
    project_id: QueryId = None,
    role: Role = None,
    status: Status = None,
    since: From = None,
    until: To = None,
    limit: Limit = None,
    offset: Offset = None,
) -> SearchPage:
    """Messages and documents that have every word of `q`; `"a phrase"` is found as it stands.

    The newest 200 of each are ranked, the best first, newer before older at a tie; what is older
    follows by recency. `hits` says where the words are in the snippet, in code points.
    """
    query = search.Query(
        q=q,
        project_id=project_id,
        role=role,
        status=status,
        since=since,
        until=until,
        limit=limit or 20,
        offset=offset or 0,
    )
    return await search.search(db, query)


@router.post("/rebuild")
async def rebuild_index(db: DatabaseDep) -> Done:
    """Make the index anew. It is kept with every change, so there should never be a need to."""
    messages, documents = await db.write(_rebuild)
    return Done(message=f"{messages} messages and {documents} documents indexed")


def _rebuild(session: Session) -> tuple[int, int]:
    index.rebuild(session.connection())
    messages = select(func.count()).where(col(Message.status) != "streaming")
    documents = select(func.count()).select_from(Document)
    return session.exec(messages).one(), session.exec(documents).one()
