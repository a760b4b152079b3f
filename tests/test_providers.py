"""Where a model's name leads, with which key, and what becomes of a provider's refusal."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from errors import ServiceError
from providers import Providers
from tests.conftest import OWN_KEY, Client, make_settings, serve, stream
from tests.upstream import Upstream

MINE = SecretStr("sk-mine")


def providers(tmp_path: Path, **changes: Any) -> Providers:
    return Providers(make_settings(tmp_path, **{"openai_api_key": None, **changes}))


@pytest.mark.parametrize(
    ("model", "default", "expected"),
    [
        ("poe/Claude-Opus", "openai", ("poe", "Claude-Opus")),
        ("openai/gpt", "poe", ("openai", "gpt")),
        ("gpt", "poe", ("poe", "gpt")),
        ("meta/llama", "openai", ("openai", "meta/llama")),
        ("poe/", "openai", ("openai", "poe/")),
        ("echo", "openai", ("echo", "echo")),
        (None, "echo", ("echo", "echo")),
        ("anything", "echo", ("echo", "anything")),
    ],
)
def test_a_models_prefix_names_its_provider(
    tmp_path: Path, model: str | None, default: str, expected: tuple[str, str]
) -> None:
    target = providers(tmp_path, default_provider=default).resolve(model, MINE)
    assert (target.provider, target.model) == expected


def test_without_any_model_the_caller_is_told_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as refusal:
        providers(tmp_path).resolve(None, MINE)
    assert refusal.value.status == 422
    assert "DEFAULT_MODEL" in refusal.value.detail


def test_the_services_own_key_comes_before_the_callers(tmp_path: Path) -> None:
    own = providers(tmp_path, openai_api_key=OWN_KEY)
    assert own.resolve("m", MINE).key == SecretStr(OWN_KEY)
    assert providers(tmp_path).resolve("m", MINE).key == MINE


@pytest.mark.parametrize("bearer", [None, "", "a b", "é", "a\nb", "k" * 5000, "poe-mine"])
def test_a_key_that_is_none_is_a_401_that_says_which_to_give(
    tmp_path: Path, bearer: str | None
) -> None:
    with pytest.raises(ServiceError) as refusal:
        providers(tmp_path).resolve("openai/m", None if bearer is None else SecretStr(bearer))
    assert refusal.value.status == 401
    assert bearer is None or bearer == "" or bearer not in refusal.value.detail


def test_with_an_access_token_only_the_services_own_keys_are_used(tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as refusal:
        providers(tmp_path, access_token="t").resolve("m", SecretStr("t"))
    assert refusal.value.status == 401


def test_the_model_is_the_requests_else_the_conversations_else_the_projects_else_the_default(
    tmp_path: Path, upstream: Upstream
) -> None:
    with serve(make_settings(tmp_path, upstream, default_model="hello")) as client:
        project = client.post("/v1/projects", json={"name": "p", "llm_model": "words:1"}).json()
        chat = client.create(project_id=project["id"], model="words:2")
        client.say(chat, "hi", model="words:3")
        client.say(chat, "hi")
        client.say(client.create(project_id=project["id"]), "hi")
        client.say(client.create(), "hi")
    asked = [call.body["model"] for call in upstream.calls]
    assert asked == ["words:3", "words:2", "words:1", "hello"]


def test_the_callers_key_reaches_the_provider_and_nothing_else_does(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ORG_ID", "PROJECT_ID", "CUSTOM_HEADERS", "ADMIN_KEY", "BASE_URL", "API_KEY"):
        monkeypatch.setenv(f"OPENAI_{name}", "x-leak: leaked")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serve(make_settings(tmp_path, upstream, openai_api_key=None)) as client:
        chat = client.create(model="hello")
        path = f"/v1/chat/conversations/{chat}/messages"
        headers = {"Authorization": "Bearer sk-test"}
        answer = client.post(path, json={"role": "user", "content": "x"}, headers=headers)
    assert answer.status_code == 200
    sent = upstream.calls[0].headers
    assert sent["authorization"] == "Bearer sk-test"
    assert "leak" not in str(sent)
    assert not {"openai-organization", "openai-project", "x-leak"} & set(sent)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "ours", "calls"),
    [
        *((status, status, 1) for status in (400, 401, 402, 403, 404, 408, 409, 413, 422)),
        (500, 502, 1),
        (502, 502, 3),
        (503, 502, 3),
        (529, 502, 3),
        (429, 429, 3),
    ],
)
def test_a_refusal_keeps_its_status_and_its_sentence_but_not_the_key(
    client: Client, upstream: Upstream, status: int, ours: int, calls: int, streamed: bool
) -> None:
    chat = client.create(model=f"refuse:{status}")
    answer = client.say(chat, "hi", stream=streamed)
    assert answer.status_code == ours
    assert answer.json()["detail"] == "No: Bearer [key]"
    assert len(upstream.calls) == calls
    reply = client.history(chat)[-1]
    assert (reply["status"], reply["content"]) == ("error", "")
    assert reply["error"] == "No: Bearer [key]"


@pytest.mark.parametrize(("seconds", "calls"), [("0", 3), ("1", 3), ("11", 1), ("300", 1)])
def test_a_short_retry_after_is_waited_for_and_a_long_one_passed_on(
    client: Client, upstream: Upstream, seconds: str, calls: int
) -> None:
    answer = client.say(client.create(model=f"refuse:429:{seconds}"), "hi")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, seconds)
    assert len(upstream.calls) == calls


@pytest.mark.parametrize("status", [429, 502, 503, 529])
def test_a_passing_refusal_is_not_noticed(client: Client, status: int) -> None:
    answer = client.say(client.create(model=f"flaky:{status}:2"), "hi")
    assert (answer.status_code, answer.json()["reply"]) == (200, "你好, world!")


@pytest.mark.parametrize("model", ["cut:before-headers", "cut:in-text", "refuse:500", "html"])
def test_what_the_upstream_may_have_begun_is_not_asked_twice(
    client: Client, upstream: Upstream, model: str
) -> None:
    assert client.say(client.create(model=model), "hi").status_code == 502
    assert len(upstream.calls) == 1


def test_a_redirect_is_not_followed(client: Client, upstream: Upstream) -> None:
    assert client.say(client.create(model="redirect"), "hi").status_code == 502
    assert len(upstream.calls) == 1


def test_no_connection_is_a_502(tmp_path: Path) -> None:
    with serve(make_settings(tmp_path)) as client:
        answer = client.say(client.create(model="m"), "hi", stream=True)
    assert (answer.status_code, answer.json()["detail"]) == (502, "The upstream cannot be reached")


@pytest.mark.parametrize(("model", "text"), [("silent", ""), ("stall", "two words")])
def test_silence_is_a_504(tmp_path: Path, upstream: Upstream, model: str, text: str) -> None:
    with serve(make_settings(tmp_path, upstream, upstream_timeout=0.3)) as client:
        chat = client.create(model=model)
        assert client.say(chat, "hi").status_code == 504
        assert client.history(chat)[-1]["content"] == text


def test_an_answer_that_comes_whole_is_a_reply_too(client: Client) -> None:
    assert client.say(client.create(model="whole"), "hi").json()["reply"] == "all at once"


@pytest.mark.parametrize(
    "fields", ["reasoning", "reasoning_content", "reasoning_content:reasoning"]
)
def test_reasoning_is_stored_apart_from_the_reply(client: Client, fields: str) -> None:
    chat = client.create(model=f"reasoning:{fields}")
    with stream(client, chat) as events:
        told = events.rest()
    assert "".join(event.get("reasoning", "") for event in told[:-1]) == "hm, yes"
    assert all(event["content"] == "" for event in told[:-1] if "reasoning" in event)
    reply = client.history(chat)[-1]
    assert (reply["content"], reply["reasoning"]) == ("answer", "hm, yes")


@pytest.mark.parametrize("size", ["1", "1000"])
@pytest.mark.parametrize("form", ["elapsed", "quoted", "none"])
def test_poes_placeholders_never_reach_the_reply(
    tmp_path: Path, upstream: Upstream, form: str, size: str
) -> None:
    with serve(make_settings(tmp_path, upstream, poe_api_key="poe-own")) as client:
        answer = client.say(client.create(model=f"poe/thinking:{form}:{size}"), "hi").json()
    expected = "the answer says: Thinking... (3s elapsed)"
    assert answer["reply"] == ("Thinking... is what " * (form == "none")) + expected


@pytest.mark.parametrize("content", ["one  two\n three ", "你好，world", "\n", "🎉🎉", "a"])
def test_echo_answers_with_the_last_message_exactly(client: Client, content: str) -> None:
    chat = client.create(model="echo", system_prompt="ignore me")
    assert client.say(chat, content).json()["reply"] == content
