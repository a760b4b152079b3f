"""The OpenAPI document: what the routes say of themselves, and what no single route can say.

That is: the refusals that any path may answer, what an event stream is made of, examples, and the
rules for text that hold in every body. It is meant to generate clients from.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from sqlmodel import SQLModel

from errors import OPENAI_PATHS, ErrorBody, OpenAIErrorBody
from examples import BODIES, CALLS, IMPORT_STREAM, STREAM
from fields import MAX_ID, or_blank
from guard import IMPORT_PATH, OPEN_PATHS
from models import ImportEvent, TurnEvent

Schema = dict[str, Any]

SHAPE = "#/components/schemas/"
EVENT_STREAM = "text/event-stream"
DESCRIPTION = """\
A chat backend for one person: every conversation in one SQLite file, turns forwarded to Poe,
OpenAI or anything that speaks OpenAI's API.

Every error is `{"detail": "one sentence"}` with its true status; a 422 names the fields besides,
and on the paths of OpenAI's API an error has OpenAI's `error` object too. Times are ISO 8601 in
UTC. Text comes back exactly as it was sent; NUL and lone surrogates are refused. In a query an
empty value counts as absent; unknown fields of a body are refused.

An event stream is a series of `data:` lines with a blank line after each, and ends with
`data: [DONE]`; lines that begin with `:` keep the connection alive.
"""
REFUSALS = {
    400: "The Host header names no host of this service.",
    401: "The ACCESS_TOKEN of the service is set and was not sent, or no key is known.",
    403: "The Origin, or the site that the request comes from, may not call the service.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    431: "The headers are too large.",
    500: "Something unforeseen went wrong; the service's log says more.",
    503: "The service is shutting down, or its database file cannot be used.",
    507: "The disk is full.",
}
# The same strings in every body: what cannot be stored and come back is refused.
TEXT = r"^[^\u0000]*$"


def _told(shape: type[SQLModel], description: str, **more: Schema) -> Schema:
    """An event whose data is JSON of this shape, or the word that ends its stream."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": SHAPE + shape.__name__},
    }
    return {
        "description": description,
        "type": "object",
        "required": ["data"],
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}, **more},
    }


SHAPES: dict[str, Schema] = {
    "TurnStreamEvent": _told(
        TurnEvent,
        "A server-sent event of a turn; `id` is there where a reply is followed.",
        id={"type": "string"},
    ),
    "ImportStreamEvent": _told(ImportEvent, "A server-sent event of an import."),
    "ProviderStreamEvent": {
        "description": "A server-sent event as the provider sent it.",
        "type": "object",
        "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
    },
}
# What answers with a file, and of which kinds.
FILES = {
    "/v1/export": ("application/json", "application/zip"),
    "/v1/chat/conversations/{conversation_id}/export": ("application/json", "text/markdown"),
    "/v1/backup": ("application/vnd.sqlite3",),
}
MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {"role": {"type": "string"}},
    },
}
NAMES_A_CONVERSATION: Schema = {
    "type": "object",
    "required": ["conversation_id"],
    "properties": {"conversation_id": {"type": "string", "minLength": 1}},
}
ONLY_FOR_USERS = ("documents", "system_prompt_append", "options")
# Rules that Pydantic checks, but does not put into words of JSON Schema.
RULES: dict[str, Schema] = {
    "MessageCreate": {
        "if": {"properties": {"role": {"const": "user"}}},
        "else": {"properties": {name: {"enum": [None, "", [], {}]} for name in ONLY_FOR_USERS}},
    },
    "OpenAICall": {
        "properties": {
            "metadata": {"properties": {"conversation_id": {"type": ["string", "null"]}}},
        },
        "if": {
            "anyOf": [
                {"properties": {"store": {"const": True}}, "required": ["store"]},
                {"properties": {"metadata": NAMES_A_CONVERSATION}, "required": ["metadata"]},
            ]
        },
        "then": {"required": ["messages"], "properties": {"messages": MESSAGES}},
    },
}


def install(app: FastAPI, *, guarded: bool) -> None:
    """Serve this document; `guarded` where every request needs the service's token."""

    def document() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app, guarded)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def describe(app: FastAPI, guarded: bool) -> Schema:
    document = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
    )
    components = document["components"]
    shapes = components["schemas"]
    shapes |= {**SHAPES, **_shape(TurnEvent), **_shape(ImportEvent), **shapes}
    components["responses"] = {
        **{str(status): _refusal(told, ErrorBody) for status, told in REFUSALS.items()},
        **{f"OpenAI{status}": _refusal(told, OpenAIErrorBody) for status, told in REFUSALS.items()},
    }
    document["security"] = [{"HTTPBearer": []}, *([] if guarded else [{}])]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            _complete(path, operation)
    for name in _sent(document):
        _make_exact(shapes[name])
        _merge(shapes[name], RULES.get(name, {}))
    for name, example in BODIES.items():
        shapes[name]["examples"] = [example]
    return document


def _shape(model: type[SQLModel]) -> dict[str, Schema]:
    schema = model.model_json_schema(ref_template=SHAPE + "{model}")
    for field in schema["properties"].values():
        field.pop("default", None)  # what is absent is absent, not null
    return {model.__name__: schema, **schema.pop("$defs", {})}


def _refusal(told: str, body: type[ErrorBody]) -> Schema:
    return {"description": told, "content": {"application/json": {"schema": _ref(body)}}}


def _ref(shape: type[Any]) -> Schema:
    return {"$ref": f"{SHAPE}{shape.__name__}"}


def _complete(path: str, operation: Schema) -> None:
    """An operation, with the refusals that any may answer and its event stream explained."""
    operation.pop("security", None)
    if path in OPEN_PATHS:
        operation["security"] = []
    openai = path.startswith(OPENAI_PATHS)
    for status in REFUSALS:
        answer = {"$ref": f"#/components/responses/{'OpenAI' if openai else ''}{status}"}
        operation["responses"].setdefault(str(status), answer)
    for kind in FILES.get(path, ()):
        operation["responses"]["200"].setdefault("content", {})[kind] = {}
    if example := CALLS.get(operation["operationId"]):
        operation["requestBody"]["content"]["application/json"]["example"] = example
    for answer in operation["responses"].values():
        if EVENT_STREAM in (content := answer.get("content", {})):
            content[EVENT_STREAM] = _event_stream(path)
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query":
            _allow_blank(parameter["schema"])


def _event_stream(path: str) -> Schema:
    """As is the custom before OpenAPI 3.2, the schema is that of one event."""
    if path.startswith(OPENAI_PATHS):
        return {"schema": {"$ref": f"{SHAPE}ProviderStreamEvent"}}
    if path == IMPORT_PATH:
        return {"schema": {"$ref": f"{SHAPE}ImportStreamEvent"}, "example": IMPORT_STREAM}
    return {"schema": {"$ref": f"{SHAPE}TurnStreamEvent"}, "example": STREAM}


def _allow_blank(schema: Schema) -> None:
    """In a query nothing is null; what may be absent may be blank."""
    if {"type": "null"} in schema.get("anyOf", []):
        schema["anyOf"] = or_blank([k for k in schema["anyOf"] if k != {"type": "null"}])


def _merge(schema: Schema, more: Schema) -> None:
    for key, value in more.items():
        if key in schema:
            _merge(schema[key], value)
        else:
            schema[key] = value


def _sent(document: Schema) -> set[str]:
    """The names of all shapes that a request's body is made of."""
    shapes = document["components"]["schemas"]
    found = set[str]()
    asked = [
        op.get("requestBody") for methods in document["paths"].values() for op in methods.values()
    ]
    while asked:
        names = {name for body in asked for name in _references(body)} - found
        found |= names
        asked = [shapes[name] for name in names]
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].removeprefix(SHAPE)
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _make_exact(schema: Schema) -> None:
    """Say of everything in a body what else it must be: texts storable, numbers within bounds."""
    if schema.get("type") == "string" and not schema.keys() & {
        "enum",
        "const",
        "format",
        "pattern",
    }:
        schema["pattern"] = TEXT
    for bound in schema.keys() & {"minimum", "maximum"}:
        schema[bound] = min(int(schema[bound]), MAX_ID)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            _make_exact(schema[name])
    for name in ("anyOf", "oneOf"):
        for part in schema.get(name, []):
            _make_exact(part)
    for part in schema.get("properties", {}).values():
        _make_exact(part)
