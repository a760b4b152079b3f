"""The API against its own description: generated requests, named shapes, true examples."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import models
from examples import BODIES, STREAM
from main import create_app
from openapi import REFUSALS
from tests.conftest import Client, make_settings, stream
from tests.process import environment, run
from tests.test_follow import follow

TOKEN = "a-token-for-tests"
CONFIGURATION = Path(__file__).parent.parent / "schemathesis.toml"
FEWEST_CASES = 2000
# Not JSON, or JSON of a shape that is not ours to name.
UNNAMED = {
    "/v1/import",
    "/v1/export",
    "/v1/chat/conversations/{conversation_id}/export",
    "/v1/backup",
}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(make_settings(tmp_path_factory.mktemp("app"))).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


@pytest.mark.long
def test_thousands_of_generated_requests_find_no_failure(tmp_path: Path) -> None:
    values = environment(tmp_path, DEFAULT_PROVIDER="echo", ACCESS_TOKEN=TOKEN, OPENAI_API_KEY="")
    with run(values, dev=False) as service:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIGURATION}"),
            *("run", str(service.client.base_url.join("/openapi.json")), "--checks=all"),
            *("-H", f"Authorization: Bearer {TOKEN}", "--max-examples=5"),
            *("--generation-deterministic", "--no-color"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout
    found = re.search(r"([\d,]+) generated", done.stdout)
    assert found, done.stdout
    print(found[0])
    assert int(found[1].replace(",", "")) >= FEWEST_CASES
    assert "Traceback" not in "".join(service.log)


def test_every_shape_that_is_sent_or_answered_has_a_name(document: dict[str, Any]) -> None:
    for path, operation in operations(document):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        contents = [content for body in bodies for content in body.get("content", {}).values()]
        for content in contents:
            assert path in UNNAMED or "$ref" in str(content["schema"]), path


def test_every_operation_is_named_told_and_says_how_it_may_be_refused(
    document: dict[str, Any],
) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    for _, operation in operations(document):
        assert set(map(str, REFUSALS)) <= set(operation["responses"])
        assert operation["tags"]
        assert operation["summary"]


def test_every_body_has_an_example_and_every_example_is_right(document: dict[str, Any]) -> None:
    sent = set(re.findall(r"'#/components/schemas/(\w+)'", str(list(_bodies(document)))))
    assert sent == {*BODIES, "OpenAICall"}
    for name, example in BODIES.items():
        getattr(models, name).model_validate(example)


def _bodies(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for _, operation in operations(document):
        yield from operation.get("requestBody", {}).get("content", {}).values()


def test_event_streams_are_as_they_are_described(client: Client) -> None:
    chat = client.create(model="reasoning:reasoning")
    told: list[Any] = [line for line in STREAM.split("\n\n") if line]
    assert told.pop() == "data: [DONE]"
    found = [models.TurnEvent.model_validate_json(line.removeprefix("data: ")) for line in told]
    with stream(client, chat) as events:
        found += map(models.TurnEvent.model_validate, events.rest()[:-1])
    with follow(client, client.history(chat)[-1]["id"]) as events:
        found += map(models.TurnEvent.model_validate, events.rest()[:-1])
    with stream(client, client.create(model="cut:in-text")) as events:
        found += map(models.TurnEvent.model_validate, events.rest()[:-1])
    body = {"conversation_id": chat, "category_id": 1, "model": "hello", "stream": True}
    with client.stream("POST", "/v1/plan/documents/generate", json=body) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: {")]
    found += (models.TurnEvent.model_validate_json(line.removeprefix("data: ")) for line in lines)
    seen = {name for event in found for name in event.model_fields_set}
    assert seen == set(models.TurnEvent.model_fields) - {"omitted"}


class Page(HTMLParser):
    """The tags of a page, and everything that it links to or loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags = set[str]()
        self.addresses = set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses |= {value or "" for name, value in attributes if name in ("href", "src")}


def test_the_docs_load_nothing_and_run_nothing(client: Client, document: dict[str, Any]) -> None:
    answer = client.get("/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
    page = Page(answer.text)
    assert not page.tags & {"script", "link", "img", "iframe", "form", "object"}
    shapes = {f"#{name}" for name in document["components"]["schemas"]}
    assert page.addresses - shapes == {"/openapi.json"}
    for path in document["paths"]:
        assert f" {path}</code>" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/projects", {"GET", "POST"}),
        ("POST", "/v1/projects/1", {"GET", "PUT", "DELETE"}),
        ("DELETE", "/v1/plan/documents/latest", {"GET"}),
        ("PUT", "/v1/chat/messages/delete", {"POST"}),
        ("POST", "/health", {"GET"}),
    ],
)
def test_a_method_that_a_path_does_not_take_is_answered_with_those_it_takes(
    client: Client, method: str, path: str, allowed: set[str]
) -> None:
    answer = client.request(method, path, json={})
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allowed
