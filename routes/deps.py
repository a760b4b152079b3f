"""What routes are given: the database, the running turns, the caller's key, and ids from paths."""

import os
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request
from fastapi.responses import FileResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BeforeValidator, Field, SecretStr
from pydantic.json_schema import SkipJsonSchema
from starlette.types import Receive, Scope, Send

from catalogue import Catalogue
from db import Database
from errors import ErrorBody, InvalidBody, OpenAIErrorBody
from fields import MAX_ID, Time
from limits import Limit
from providers import Providers
from settings import Settings
from turns import Turns

_bearer = HTTPBearer(auto_error=False, description="A key for Poe or OpenAI, or ACCESS_TOKEN.")


# Declared async: FastAPI would run plain functions on another thread, at ten times their cost.


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _turns(request: Request) -> Turns:
    turns: Turns = request.app.state.turns
    return turns


async def _following(request: Request) -> AsyncIterator[None]:
    followers: Limit = request.app.state.followers
    with followers.place():
        yield


async def _providers(request: Request) -> Providers:
    providers: Providers = request.app.state.providers
    return providers


async def _catalogue(request: Request) -> Catalogue:
    catalogue: Catalogue = request.app.state.catalogue
    return catalogue


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _key(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> SecretStr | None:
    return SecretStr(credentials.credentials) if credentials else None


DatabaseDep = Annotated[Database, Depends(_database)]
TurnsDep = Annotated[Turns, Depends(_turns)]
CatalogueDep = Annotated[Catalogue, Depends(_catalogue)]
SettingsDep = Annotated[Settings, Depends(_settings)]
ProvidersDep = Annotated[Providers, Depends(_providers)]
# Held until the answer has been read, or its reader has left.
FOLLOWING = Depends(_following, scope="request")
KeyDep = Annotated[SecretStr | None, Depends(_key)]

# A header is there or not; it cannot be null.
NoHeader = SkipJsonSchema[None]
IdempotencyKey = Annotated[
    Annotated[str, Field(max_length=255, pattern=r"^[ -~]+$")] | NoHeader, Header()
]
# `1`, but neither `01` nor `+1` nor `1.0`: a thing has one path.
PathId = Annotated[
    Annotated[int, Field(ge=1, le=MAX_ID)],
    BeforeValidator(lambda value: value if re.fullmatch(r"[1-9][0-9]{0,18}", value) else None),
    Path(),
]
# In a query an empty parameter counts as absent.
Absent = BeforeValidator(lambda value: None if value == "" else value)
QueryId = Annotated[Annotated[int, Field(ge=0, le=MAX_ID)] | None, Absent, Query()]
Force = Annotated[bool | None, Absent, Query(description="Delete what depends on it too.")]
QueryText = Annotated[str | None, Absent, Query()]
# A day is taken for its first moment, so `from` a day `to` the next is that day.
From = Annotated[Time | None, Absent, Query(alias="from", description="Not before this time.")]
To = Annotated[Time | None, Absent, Query(alias="to", description="Before this time.")]

INVALID: dict[int | str, dict[str, Any]] = {422: {"model": InvalidBody}}


def errors(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """The errors a route declares, in the one shape that all have."""
    return {**{status: {"model": ErrorBody} for status in statuses}, **INVALID}


def openai_errors() -> dict[int | str, dict[str, Any]]:
    """Any error, in the shape that clients of OpenAI's API read."""
    return {status: {"model": OpenAIErrorBody} for status in ("4XX", "5XX")}


STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
# What a turn may answer; a provider may refuse it with any status.
TURN = {**STREAMED, **errors(402, 404, 408, 409, 429, "4XX", 502, 504)}


def temporary_file(ending: str) -> FilePath:
    """A new file that only its owner may read; whoever asks for it deletes it."""
    handle, name = tempfile.mkstemp(ending)
    os.close(handle)
    return FilePath(name)


def discard(path: FilePath) -> None:
    path.unlink(missing_ok=True)


class TemporaryFileResponse(FileResponse):
    """Sends a file and deletes it, also where the client leaves in the middle."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            discard(FilePath(self.path))
