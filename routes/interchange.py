import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import IO, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile

import events
import interchange
from db import Database
from errors import Invalid, ServiceError
from fields import now
from imports import intake
from models import Imported
from routes.deps import (
    STREAMED,
    Absent,
    DatabaseDep,
    TemporaryFileResponse,
    discard,
    errors,
    temporary_file,
)

router = APIRouter(prefix="/v1", tags=["moving"])

Format = Annotated[Literal["json", "zip"] | None, Absent, Query(description="json unless told")]
OneFormat = Annotated[
    Literal["json", "markdown"] | None, Absent, Query(description="json unless told")
]
WithProgress = Annotated[
    bool | None, Absent, Query(description="Tell how far it is, as an event stream.")
]
BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {
    "schema": {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}},
        "required": ["file"],
    }
}
FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {}},
            "application/x-ndjson": BINARY,
            "application/zip": BINARY,
            "application/octet-stream": BINARY,
            "multipart/form-data": FORM,
        },
    }
}
PROGRESS_PAUSE = 0.25
CHUNK = 1 << 20


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


@router.post(
    "/import",
    response_model=Imported,
    responses={
        **STREAMED,
        **errors(),
    },
    openapi_extra=FILE_BODY,
)
async def import_file(request: Request, db: DatabaseDep, stream: WithProgress = None) -> Any:
    """Take a file of up to 512 MB: an export of this program, ChatGPT, Claude, Open WebUI or
    LibreChat, as it is, as a ZIP, or as a form's `file`.

    What is there already stays as it is, so the same file may come twice, and a later one brings
    what is new; what cannot be stored is told, with the reason. With `stream` there are events
    `{"done": bytes, "total": bytes}`, then one with the `result` or the `error`, then `[DONE]`.
    """
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        await _receive(request, file)
        if not stream:
            return await intake.take(db, file)
        # The events are sent after this function has returned: the file is theirs to close.
        return events.stream(_taking(db, file, stack.pop_all()))


async def _receive(request: Request, file: IO[bytes]) -> None:
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        async with request.form(max_files=1, max_fields=1) as form:
            given = form.get("file")
            if not isinstance(given, UploadFile):
                raise Invalid("must be given", field="file")
            while chunk := await given.read(CHUNK):
                await asyncio.to_thread(file.write, chunk)
        return
    async for chunk in request.stream():
        await asyncio.to_thread(file.write, chunk)
    if not file.tell():
        raise Invalid("must be given", field="body")


async def _taking(db: Database, file: IO[bytes], held: ExitStack) -> AsyncIterator[bytes]:
    """How far it is, and what came of it; who leaves meanwhile ends it after a whole chat."""
    done = total = 0

    def told(now_done: int, of: int) -> None:
        nonlocal done, total
        done, total = now_done, of

    with held:
        taking = asyncio.create_task(intake.take(db, file, told))
        held.callback(taking.cancel)
        while not (await asyncio.wait([taking], timeout=PROGRESS_PAUSE))[0]:
            yield events.event(done=done, total=total)
        try:
            yield events.event(result=taking.result().model_dump())
        except ServiceError as error:
            yield events.event(error={"detail": error.detail, "status": error.status})
        yield events.DONE


def _attachment(name: str) -> dict[str, Any]:
    quoted = f"attachment; filename*=utf-8''{quote(name, safe='')}"
    return {"Content-Disposition": quoted, "X-Content-Type-Options": "nosniff"}
