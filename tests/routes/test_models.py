"""The list of models that can be asked."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Client, make_settings, serve
from tests.upstream import Upstream


def ids(client: Client, **headers: str) -> list[str]:
    answer = client.get("/v1/models", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["object"] == "list"
    return [model["id"] for model in answer.json()["data"]]


def test_all_providers_are_in_one_list_under_names_to_ask_by(client: Client) -> None:
    names = ["hello", "Other", "bare"]
    listed = ids(client)
    assert listed == ["echo", *(f"{p}/{name}" for p in ("poe", "openai") for name in names)]
    chat = client.create()
    assert client.say(chat, "hi", model="openai/hello").json()["reply"] == "你好, world!"
    assert client.say(chat, "hi", model=listed[0]).json()["reply"] == "hi"


def test_every_model_has_openais_fields_and_keeps_its_own(client: Client) -> None:
    by_id: dict[str, Any] = {m["id"]: m for m in client.get("/v1/models").json()["data"]}
    assert by_id["poe/hello"] == {
        "id": "poe/hello",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "P",
        "pricing": {"prompt": "1"},
    }
    assert by_id["poe/Other"]["created"] == 1_700_000_000
    assert by_id["poe/bare"] == {
        "id": "poe/bare",
        "object": "model",
        "created": 0,
        "owned_by": "poe",
    }


def test_the_list_is_kept_for_a_while(client: Client, upstream: Upstream) -> None:
    assert ids(client) == ids(client)
    assert len(upstream.calls) == 2


def test_one_provider_down_leaves_the_other(tmp_path: Path, upstream: Upstream) -> None:
    with serve(make_settings(tmp_path, upstream, poe_base_url="http://127.0.0.1:9/v1")) as client:
        assert ids(client) == ["echo", "openai/hello", "openai/Other", "openai/bare"]


def test_without_any_key_what_can_be_listed_is(tmp_path: Path, upstream: Upstream) -> None:
    with serve(make_settings(tmp_path, upstream, openai_api_key=None)) as client:
        assert {name.partition("/")[0] for name in ids(client)} == {"echo", "poe"}
        assert "authorization" not in upstream.calls[0].headers
        with_key = ids(client, Authorization="Bearer sk-mine")
        assert {name.partition("/")[0] for name in with_key} == {"echo", "poe", "openai"}


def test_no_provider_at_all_leaves_echo(tmp_path: Path, upstream: Upstream) -> None:
    upstream.lists_models = False
    with serve(make_settings(tmp_path, upstream)) as client:
        assert ids(client) == ["echo"]


@pytest.mark.parametrize("name", ["poe/hello", "POE/Hello", "openai/other", "echo"])
def test_one_model_is_found_by_name(client: Client, name: str) -> None:
    assert client.get(f"/v1/models/{name}").json()["id"].lower() == name.lower()


def test_an_unknown_model_is_not_found(client: Client) -> None:
    answer = client.get("/v1/models/poe/nobody")
    assert (answer.status_code, answer.json()["detail"]) == (404, "Model not found")
    assert answer.json()["error"]["message"] == "Model not found"
