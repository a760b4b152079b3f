"""Texts and numbers that break programs, put into every field of every operation."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from main import create_app
from tests.conftest import Client, make_settings, serve, stream
from tests.refusals import SECRET, UNPARSABLE, UNSTORABLE, check_refused
from tests.upstream import Upstream

HERE = '"@"'
NUMBERS = ["NaN", "-Infinity", "1e400", "9" * 400, "9" * 5000]
NESTED = ["[" * 100_000, "[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101]
RIGHT_TO_LEFT = "\u202eשלום \u2067مرحبا\u2069\u202c \u200f"
ODD_BUT_TEXT = [
    *("👩🏽‍🚀" * 70_000, RIGHT_TO_LEFT, "\ufeff\u2028\u2029\x85\x0b\x7f", "\uffff\ufffe\U0010ffff"),
    *("e\u0301" * 1000, "Z͑ͫ̓ͪ̂" * 1000, "%00%n%s{0}${x}", "'; DROP TABLE message; --", "a\r\n\r\nb: c"),
]
IN_A_QUERY = ["%00", "%ED%A0%80", "%FF", "%F0%9F%98%80", "NaN", "1e400", "9" * 5000, "%27%20OR%201"]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service for tests that change nothing."""
    settings = make_settings(tmp_path_factory.mktemp("text"), openai_api_key=None)
    with serve(settings) as client:
        yield client


def operations() -> Iterator[Any]:
    """Every operation with its method and path."""
    document = create_app(make_settings(Path("nowhere"))).openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            schema = _shape(document, operation)
            fields = [*schema.get("properties", {})]
            yield method, path.format_map(Ones()), operation.get("parameters", []), fields


class Ones(dict[str, str]):
    """Fills a path: whatever the parameter, it is 1."""

    def __missing__(self, key: str) -> str:
        return "1"


def _shape(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = content.get("schema", {})
    for part in [schema, *schema.get("anyOf", [])]:
        if name := part.get("$ref", "").rpartition("/")[2]:
            shape: dict[str, Any] = document["components"]["schemas"][name]
            return shape
    return {}


OPERATIONS = [*operations()]
WITH_A_BODY = [
    pytest.param(method, path, fields, id=f"{method} {path}")
    for method, path, _, fields in OPERATIONS
    if fields
]
WITH_A_QUERY = [
    pytest.param(method, path, [p["name"] for p in parameters if p["in"] == "query"], id=path)
    for method, path, parameters, _ in OPERATIONS
    if any(parameter["in"] == "query" for parameter in parameters)
]


def send(client: Client, method: str, path: str, body: str | bytes) -> httpx2.Response:
    headers = {"Content-Type": "application/json"}
    return client.request(method, path, content=body, headers=headers)


def everywhere(field: str, value: str) -> Iterator[str]:
    """Bodies that have this value in a field: by itself, in a list, in objects, as a name."""
    for place in ("@", ["x", "@"], {"type": "text", "text": "@"}, [{"type": "text", "text": "@"}]):
        yield json.dumps({field: place}).replace(HERE, value)
    if value.startswith('"'):
        yield f'{{"{field}": {{{value}: 1}}}}'
        yield f'{{"{field}": [{{"type": "text", "text": "x", {value}: {{"deep": [1]}}}}]}}'


@pytest.mark.parametrize(("method", "path", "fields"), WITH_A_BODY)
def test_what_cannot_be_stored_is_refused_in_every_field(
    standing: Client, method: str, path: str, fields: list[str]
) -> None:
    for field in fields:
        for body in everywhere(field, UNSTORABLE[0]):
            check_refused(send(standing, method, path, body))
        for value in (*UNSTORABLE, *NUMBERS[:3], *NESTED[1:]):
            body = json.dumps({field: ["x", "@"]}).replace(HERE, value)
            check_refused(send(standing, method, path, body))


@pytest.mark.parametrize(("method", "path", "fields"), WITH_A_BODY)
def test_no_text_and_no_number_is_too_much_for_any_field(
    standing: Client, method: str, path: str, fields: list[str]
) -> None:
    for value in (*map(json.dumps, ODD_BUT_TEXT[1:]), *NUMBERS, *NESTED):
        for place in ("@", ["@"], {"type": "text", "text": "@"}):
            body = json.dumps(dict.fromkeys(fields, place)).replace(HERE, value)
            answer = send(standing, method, path, body)
            assert answer.status_code < 500, (body[:200], answer.text[:200])


@pytest.mark.parametrize(("method", "path", "fields"), WITH_A_BODY)
@pytest.mark.parametrize("body", UNPARSABLE)
def test_what_is_no_json_is_refused(
    standing: Client, method: str, path: str, fields: list[str], body: bytes
) -> None:
    check_refused(send(standing, method, path, body))


@pytest.mark.parametrize(("method", "path", "names"), WITH_A_QUERY)
def test_no_query_is_too_much(standing: Client, method: str, path: str, names: list[str]) -> None:
    for value in IN_A_QUERY:
        for name in names:
            answer = standing.request(method, f"{path}?{name}={value}&{name}={value}")
            assert answer.status_code < 500, (name, value, answer.text)
        answer = standing.request(method, f"{path}?{'&'.join(f'{n}={value}' for n in names)}")
        assert answer.status_code < 500, (value, answer.text)


@pytest.mark.parametrize("value", IN_A_QUERY)
def test_no_path_is_too_much(standing: Client, value: str) -> None:
    for method, path, _, _ in OPERATIONS:
        answer = standing.request(method, path.replace("/1", f"/{value}"), json={"x": SECRET})
        assert answer.status_code < 500, (path, answer.text)
        assert SECRET not in answer.text


@pytest.mark.parametrize("text", ODD_BUT_TEXT, ids=lambda text: ascii(text[:4]))
def test_every_text_comes_back_as_it_was_sent(
    client: Client, upstream: Upstream, text: str
) -> None:
    chat = client.create(model="repeat", system_prompt=text)
    options = {"metadata": {text[:50]: [text]}}
    with stream(client, chat, text, options=options) as events:
        events.rest()
    assert events.text == text
    part = {"type": "text", "text": text, "note": {text[:50]: text}}
    assert client.say(chat, [part]).status_code == 200
    system, question, reply, parts, _ = client.history(chat)
    assert system["content"] == question["content"] == reply["content"] == text
    assert (parts["parts"], parts["content"]) == ([part], text)
    first, second = upstream.calls
    assert first.body["metadata"] == options["metadata"]
    assert second.body["messages"][-1]["content"] == [part]
    body = {"category_id": 1, "filename": text[:100], "content": text}
    document = client.post("/v1/plan/documents", json=body).json()
    assert (document["filename"], document["content"]) == (text[:100], text)
    found = client.get("/v1/search", params={"q": text[:300]})
    assert found.status_code in (200, 422)
