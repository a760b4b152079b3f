"""The app, put together; `python main.py` runs it, or a command (see commands.py)."""

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from sse_starlette.sse import AppStatus
from starlette.middleware.cors import CORSMiddleware

import errors
import openapi
import points
from backup import keep_daily
from catalogue import Catalogue
from connections import Connection
from db import Database, StartError
from guard import LARGEST_HEAD, LOCAL_ORIGIN, BodyLimit, CallerCheck, Guard, OriginCheck
from limits import Limit
from providers import Providers
from routes import (
    backup,
    categories,
    completions,
    conversations,
    docs,
    documents,
    drafts,
    health,
    interchange,
    messages,
    models,
    projects,
    references,
    search,
    usage,
)
from settings import Settings
from turns import Turns

ROUTES = (
    health,
    docs,
    conversations,
    messages,
    projects,
    categories,
    drafts,
    documents,
    models,
    completions,
    references,
    search,
    interchange,
    backup,
    usage,
)
VERSION = "0.1.0"
# After the turns have ended, what connections may take to send what they still hold.
FAREWELL_SECONDS = 2
# At their lower levels these log what is said in chats, or to whom.
TALKATIVE = ("sse_starlette", "openai", "httpx2")


def create_app(settings: Settings) -> FastAPI:
    """The service on these settings; nothing is opened before it starts."""
    app = FastAPI(
        title="Poe OpenAI FastAPI Proxy",
        version=VERSION,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    openapi.install(app, guarded=settings.access_token is not None)
    app.state.database = Database(settings.database_path)
    app.state.providers = Providers(settings)
    app.state.settings = settings
    app.state.catalogue = Catalogue(app.state.providers)
    turns = Limit(settings.max_turns, "MAX_TURNS")
    app.state.turns = Turns(app.state.database, app.state.providers, turns)
    app.state.followers = Limit(settings.max_followers, "MAX_FOLLOWERS")
    errors.install(app)
    # The last one added runs first: whom a request comes from is settled before anything else.
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(Guard, check=CallerCheck(settings))
    app.add_middleware(errors.LastResort)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_origin_regex=LOCAL_ORIGIN,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "X-Conversation-Id", "Content-Disposition"],
        allow_private_network=True,
        max_age=86_400,
    )
    app.add_middleware(Guard, check=OriginCheck(settings))
    for module in ROUTES:
        app.include_router(module.router)
    return app


async def _warm(providers: Providers) -> None:
    """Load the official client beside the start, so that the first turn need not wait for it."""
    await providers.connect()
    # All that is loaded by now stays: looking through it again and again held up every stream.
    gc.freeze()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    database: Database = app.state.database
    providers: Providers = app.state.providers
    turns: Turns = app.state.turns
    database.open()
    warming = asyncio.create_task(_warm(providers))
    beside = [asyncio.create_task(work) for work in background(app)]
    try:
        await turns.open()
        yield
    finally:
        for task in beside:
            task.cancel()
        await turns.close()
        await asyncio.wait([warming, *beside])
        await providers.close()
        await database.close()
        gc.unfreeze()


def background(app: FastAPI) -> Iterator[Coroutine[Any, Any, None]]:
    """What goes on beside the turns for as long as the service runs."""
    settings: Settings = app.state.settings
    if settings.backup_dir is not None:
        yield keep_daily(settings.database_path, settings.backup_dir, settings.backup_keep)
    if settings.poe_api_key is not None:
        yield points.watch(app.state.database, app.state.providers)


class Server(uvicorn.Server):
    """Ends the running turns before it waits for connections: streams then end by themselves."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.config.app.state.turns.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def server(app: FastAPI, settings: Settings) -> Server:
    """A server for this app. Streams are ended by us, not cut by the SSE library's own watcher."""
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
    return Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_level=settings.log_level,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=[("X-Content-Type-Options", "nosniff")],
            http=Connection,
            h11_max_incomplete_event_size=LARGEST_HEAD,
            ws="none",
            timeout_graceful_shutdown=FAREWELL_SECONDS,
        )
    )


def main() -> None:
    try:
        settings = Settings()
    except ValidationError as error:
        problem = error.errors()[0]
        sys.exit(f"{str(problem['loc'][0]).upper()}: {problem['msg']}")
    if arguments := sys.argv[1:]:
        import commands  # the service has no need of them

        commands.run(settings, arguments)
        return
    if settings.open_to_anyone and not settings.allow_open:
        sys.exit(
            f"HOST: whoever reaches {settings.host} could use your keys and read your chats: "
            "set ACCESS_TOKEN, or ALLOW_OPEN=true to insist"
        )
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s: %(message)s")
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    app = create_app(settings)
    try:
        app.state.database.open()
    except StartError as error:
        sys.exit(str(error))
    with suppress(KeyboardInterrupt):  # a second word on Ctrl+C, said after everything is closed
        server(app, settings).run()


if __name__ == "__main__":
    main()
