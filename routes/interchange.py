import asyncio
import tempfile
from typing import IO, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

import importing
import interchange
from fields import now
from models import Imported
from routes.deps import Absent, DatabaseDep, TemporaryFileResponse, discard, errors, temporary_file

router = APIRouter(prefix="/v1", tags=["moving"])

Format = Annotated[Literal["json", "zip"] | None, Absent, Query(description="json unless told")]
OneFormat = Annotated[
    Literal["json", "markdown"] | None, Absent, Query(description="json unless told")
]
JSON_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


@router.get("/export", response_class=StreamingResponse, responses=errors())
async def export_everything(db: DatabaseDep, format: Format = None) -> Response:
    """All there is, as lossless JSON that `POST /v1/import` takes (docs/export-format.md).

    Or the conversations as Markdown in a ZIP, with a folder for each project.
    """
    name = f"export-{now()[:10]}"
    if format != "zip":
        headers = _attachment(f"{name}.json")
        return StreamingResponse(interchange.export(db), 200, headers, "application/json")
    path = temporary_file(".zip")
    try:
        await interchange.export_zip(db, path)
    except BaseException:
        discard(path)
        raise
    return TemporaryFileResponse(path, 200, _attachment(f"{name}.zip"))


@router.get(
    "/chat/conversations/{conversation_id}/export", response_model=None, responses=errors(404)
)
async def export_conversation(
    conversation_id: str, db: DatabaseDep, format: OneFormat = None
) -> Response:
    """One conversation: all of it as JSON, or the branch that history shows as Markdown."""
    if format == "markdown":
        text, name = await interchange.export_markdown(db, conversation_id)
        return Response(text, 200, _attachment(name), "text/markdown")
    text = await interchange.export_one(db, conversation_id)
    return Response(text, 200, _attachment(f"{conversation_id}.json"), "application/json")


@router.post("/import", responses=errors(413, 415), openapi_extra=JSON_BODY)
async def import_file(request: Request, db: DatabaseDep) -> Imported:
    """Take back an export of this program, of up to 512 MB.

    What is there already stays as it is, so the same file may come twice; what cannot be stored is
    told, with the reason.
    """
    with tempfile.TemporaryFile() as file:
        await _receive(request, file)
        return await importing.take(db, file)


async def _receive(request: Request, file: IO[bytes]) -> None:
    async for chunk in request.stream():
        await asyncio.to_thread(file.write, chunk)
    file.seek(0)


def _attachment(name: str) -> dict[str, Any]:
    quoted = f"attachment; filename*=utf-8''{quote(name, safe='')}"
    return {"Content-Disposition": quoted, "X-Content-Type-Options": "nosniff"}
