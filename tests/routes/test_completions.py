"""OpenAI's API: passed through, and kept."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from settings import Settings
from tests.conftest import Client, make_settings, serve, wait_until
from tests.upstream import Upstream

USER = {"role": "user", "content": "hi"}


def complete(client: Client, *messages: Any, model: str = "hello", **body: Any) -> httpx2.Response:
    body = {"model": model, "messages": list(messages) or [USER], **body}
    return client.post("/v1/chat/completions", json=body)


def kept(client: Client, *messages: Any, **body: Any) -> str:
    """The conversation that a kept completion is in."""
    answer = complete(client, *messages, **{"store": True, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-conversation-id"])


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def contents(client: Client, chat: str) -> list[str]:
    return [message["content"] for message in client.history(chat)]


def test_nothing_is_stored_unless_it_is_asked_for(client: Client) -> None:
    for stream in (True, False):
        assert complete(client, stream=stream).status_code == 200
        assert complete(client, stream=stream, store=False).status_code == 200
    assert client.get("/v1/chat/conversations").json() == []


def test_a_reader_that_leaves_closes_the_upstream_at_once(
    client: Client, upstream: Upstream
) -> None:
    body = {"model": "words:1000:0.01", "messages": [USER], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_bytes())
    assert upstream.calls[-1].hung_up.wait(2)


@pytest.mark.parametrize("model", ["stall", "silent"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_closes_the_upstream_at_once(
    client: Client, upstream: Upstream, model: str, stream: bool
) -> None:
    body = json.dumps({"model": model, "messages": [USER], "stream": stream})
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as caller:
        caller.sendall((head + body).encode())
        wait_until(lambda: upstream.calls)
    assert upstream.calls[-1].hung_up.wait(2)


@pytest.mark.parametrize("model", ["cut:in-text", "cut:in-character", "stall"])
def test_a_failure_inside_a_stream_is_told_in_it(
    tmp_path: Path, upstream: Upstream, model: str
) -> None:
    with serve(make_settings(tmp_path, upstream, upstream_timeout=0.3)) as client:
        answer = complete(client, model=model, stream=True)
    *_, last = answer.text.removesuffix("\n\n").split("\n\n")
    failure = json.loads(last.removeprefix("data: "))
    assert failure["error"]["message"] == failure["detail"]
    assert "data: [DONE]" not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[]", 422),
        (b"{", 422),
        (b'{"model": 5}', 422),
        (b'{"model": "poe/x"}', 401),
        (b'{"model": "hello", "x": NaN}', 422),
        (b'{"model": "hello", "x": "\\ud800"}', 422),
        (b'{"model": "hello", "store": true}', 422),
        (b'{"model": "hello", "store": true, "messages": [5]}', 422),
        (b'{"model": "hello", "metadata": {"conversation_id": 5}}', 422),
        (b'{"messages": []}', 422),
    ],
)
def test_errors_of_ours_are_in_openais_shape_too(client: Client, body: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == answer.json()["detail"]
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_no_connection_is_told_in_both_shapes(tmp_path: Path) -> None:
    with serve(make_settings(tmp_path)) as client:
        answer = complete(client)
    assert answer.status_code == 502
    assert answer.json()["error"]["message"] == answer.json()["detail"]


@pytest.mark.parametrize("stream", [True, False])
def test_echo_answers_here_too(client: Client, stream: bool) -> None:
    body = {"stream": stream, "stream_options": {"include_usage": True}}
    answer = complete(client, model="echo", **body)
    assert "hi" in answer.text
    assert ("data: [DONE]" in answer.text) == stream
    assert '"completion_tokens": 1' in answer.text


@pytest.mark.parametrize("path", ["responses", "embeddings"])
@pytest.mark.parametrize("model", ["whole", "hello", "refuse:400"])
def test_other_calls_are_passed_through(
    client: Client, upstream: Upstream, path: str, model: str
) -> None:
    body = {"model": f"openai/{model}", "input": "x", "dimensions": 5}
    answer = client.post(f"/v1/{path}", json=body)
    assert upstream.calls[-1].path == f"/v1/{path}"
    assert upstream.calls[-1].body == {**body, "model": model}
    assert answer.status_code == (400 if model == "refuse:400" else 200)
    assert client.post(f"/v1/{path}", json={"model": "echo"}).status_code == 404


def test_what_poe_would_refuse_or_ignore_is_not_sent(tmp_path: Path, upstream: Upstream) -> None:
    ignored = {
        "seed": 1,
        "user": "me",
        "store": False,
        "logit_bias": {},
        "metadata": {"a": "b"},
        "presence_penalty": 1,
        "frequency_penalty": 1,
        "response_format": {"type": "json_object"},
        "service_tier": "auto",
    }
    sent = {"temperature": 1, "tools": [], "n": 1, "web_search": True}
    with serve(make_settings(tmp_path, upstream, poe_api_key="poe-own")) as client:
        complete(client, said("developer", "x"), USER, model="poe/hello", **ignored, **sent)
        assert complete(client, model="poe/hello", n=2).status_code == 422
    assert upstream.calls[-1].body == {
        "model": "hello",
        "messages": [said("system", "x"), USER],
        **sent,
    }


def test_a_field_the_service_added_is_left_out_where_it_is_refused(
    client: Client, upstream: Upstream
) -> None:
    answer = client.say(client.create(model="plain"), "hi")
    assert answer.json()["reply"] == "你好, world!"
    assert ["stream_options" in call.body for call in upstream.calls] == [True, False]


@pytest.mark.parametrize("stream", [True, False])
def test_a_kept_completion_is_a_turn(client: Client, upstream: Upstream, stream: bool) -> None:
    answer = complete(
        client,
        said("system", "be kind"),
        USER,
        model="whole" if not stream else "hello",
        store=True,
        stream=stream,
        metadata={"a": "b"},
        temperature=0.5,
    )
    system, user, reply = client.history(answer.headers["x-conversation-id"])
    assert (system["content"], user["content"]) == ("be kind", "hi")
    assert (reply["status"], reply["finish_reason"]) == ("complete", "stop")
    assert reply["content"] == ("你好, world!" if stream else "all at once")
    sent = upstream.calls[-1].body
    assert not {"store", "metadata"} & set(sent)
    assert sent["temperature"] == 0.5
    assert sent["messages"] == [said("system", "be kind"), USER]


@pytest.mark.parametrize(
    "model", ["hello", "tool", "rich:logprobs", "rich:choices", "words:50", "crlf"]
)
def test_a_kept_stream_brings_the_upstreams_own_events(client: Client, model: str) -> None:
    stored = complete(client, model=model, stream=True, store=True).text
    passed = complete(client, model=model, stream=True).text
    # Of all its bytes only `[DONE]` is ours: it is said once the reply is stored.
    assert stored.replace("\r\n", "\n") == passed.replace("\r\n", "\n")


def test_a_kept_stream_without_blanks_loses_nothing(client: Client) -> None:
    answer = complete(client, model="terse", stream=True, store=True)
    assert '"content": "text"' in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert client.history(answer.headers["x-conversation-id"])[-1]["content"] == "text"


def test_another_system_prompt_is_another_conversation(client: Client) -> None:
    rest = [USER, said("assistant", "你好, world!"), said("user", "more")]
    lawyer = kept(client, said("system", "You are a lawyer"), USER)
    pirate = kept(client, said("system", "You are a pirate"), USER)
    assert kept(client, said("system", "You are a lawyer"), *rest) == lawyer
    assert kept(client, said("system", "You are a pirate"), *rest) == pirate
    assert contents(client, lawyer)[0] == "You are a lawyer"


def test_a_growing_history_continues_its_conversation(client: Client) -> None:
    history = [said("system", "v1"), USER]
    chat = kept(client, *history)
    history += [said("assistant", "你好, world!"), said("user", "more")]
    assert kept(client, *history, model="words:2") == chat
    history += [said("assistant", "w0 w1"), said("user", "third")]
    assert kept(client, said("system", "v2"), *history[1:]) == chat
    assert contents(client, chat) == [
        *("v2", "hi", "你好, world!", "more", "w0 w1 ", "third", "你好, world!")
    ]


def test_an_edited_history_branches(client: Client) -> None:
    first = [USER, said("assistant", "你好, world!")]
    chat = kept(client, USER)
    kept(client, *first, said("user", "one"))
    assert kept(client, *first, said("user", "two")) == chat
    assert contents(client, chat) == ["hi", "你好, world!", "two", "你好, world!"]
    path = f"/v1/chat/conversations/{chat}/messages"
    assert len(client.get(path, params={"all": "true"}).json()["messages"]) == 6


def test_the_same_history_again_is_another_reply(client: Client) -> None:
    first = [USER, said("assistant", "你好, world!"), said("user", "one")]
    chat = kept(client, USER)
    assert {kept(client, *first), kept(client, *first)} == {chat}
    assert contents(client, chat) == ["hi", "你好, world!", "one", "你好, world!"]
    path = f"/v1/chat/conversations/{chat}/messages"
    assert len(client.get(path, params={"all": "true"}).json()["messages"]) == 5


def test_the_same_first_question_is_a_new_conversation(client: Client) -> None:
    assert kept(client, USER) != kept(client, USER)


@pytest.mark.parametrize("before", [[], [USER, said("assistant", "你好, world!")]])
def test_a_repeated_refusal_is_one_conversation(client: Client, before: list[Any]) -> None:
    if before:
        kept(client, USER)
    question = said("user", "again and again")
    for _ in range(2):
        assert complete(client, *before, question, model="refuse:429", store=True).is_error
    chat = kept(client, *before, question)
    assert len(client.get("/v1/chat/conversations").json()) == 1
    assert contents(client, chat)[-2:] == ["again and again", "你好, world!"]


def test_a_history_that_was_never_kept_is_kept_whole(client: Client) -> None:
    chat = kept(client, USER, said("assistant", "elsewhere"), said("user", "more"))
    assert contents(client, chat) == ["hi", "elsewhere", "more", "你好, world!"]


def test_tool_messages_are_kept_as_they_are(client: Client, upstream: Upstream) -> None:
    chat = kept(client, USER, model="tool", tools=[])
    call = client.history(chat)[-1]["extra"]["tool_calls"]
    function = {"name": "now", "arguments": '{"zone": "UTC"}'}
    assert call == [{"id": "call-1", "type": "function", "function": function}]
    asked = {"role": "assistant", "content": None, "tool_calls": call}
    answered = {"role": "tool", "tool_call_id": "call-1", "content": "12:00"}
    assert kept(client, USER, asked, answered, model="tool") == chat
    roles = [message["role"] for message in client.history(chat)]
    assert roles == ["user", "assistant", "tool", "assistant"]
    client.say(chat, "thanks", model="hello")
    sent = upstream.calls[-1].body["messages"]
    assert (sent[1]["tool_calls"], sent[2]["tool_call_id"]) == (call, "call-1")


@pytest.mark.parametrize(
    "reply",
    [
        {"annotations": [], "refusal": None, "tool_calls": []},
        {"reasoning_content": "hm", "name": "model"},
        {"content": [{"type": "text", "text": "你好, world!"}]},
        {"content": None, "refusal": "你好, world!"},
    ],
)
def test_a_reply_may_come_back_in_another_dress(client: Client, reply: Any) -> None:
    chat = kept(client, USER)
    again = {**said("assistant", "你好, world!"), **reply}
    assert kept(client, USER, again, said("user", "more")) == chat


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"index": 0}, True),
        ({"function": {"name": "now", "arguments": '{"zone":"UTC"}', "parsed": {}}}, True),
        ({"function": {"name": "now", "arguments": '{"zone": "CET"}'}}, False),
        ({"function": {"name": "then", "arguments": '{"zone": "UTC"}'}}, False),
        ({"function": None}, False),
    ],
)
def test_tool_calls_are_the_same_by_what_they_call(
    client: Client, change: Any, is_same: bool
) -> None:
    chat = kept(client, USER, model="tool")
    [call] = client.history(chat)[-1]["extra"]["tool_calls"]
    asked = {"role": "assistant", "content": None, "tool_calls": [{**call, **change}]}
    answered = {"role": "tool", "tool_call_id": "call-1", "content": "12:00"}
    assert (kept(client, USER, asked, answered, model="tool") == chat) == is_same


def test_a_conversation_may_be_named(client: Client) -> None:
    chat = client.create(system_prompt="mine", model="hello")
    client.say(chat, "before")
    named = {"conversation_id": chat}
    assert kept(client, said("user", "after"), metadata=named, store=None) == chat
    assert contents(client, chat) == ["mine", "before", "你好, world!", "after", "你好, world!"]
    unknown = complete(client, USER, metadata={"conversation_id": "nowhere"})
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "Conversation not found")


def test_a_setting_keeps_all_completions(tmp_path: Path, upstream: Upstream) -> None:
    with serve(make_settings(tmp_path, upstream, store_completions=True)) as client:
        assert "x-conversation-id" in complete(client).headers
        assert "x-conversation-id" not in complete(client, store=False).headers


def test_a_kept_completion_outlives_its_client(client: Client, upstream: Upstream) -> None:
    body = {"model": "gate:2", "messages": [USER], "stream": True, "store": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        chat = answer.headers["x-conversation-id"]
    upstream.open_gate()
    wait_until(lambda: client.history(chat)[-1]["status"] == "complete")
    assert client.history(chat)[-1]["content"] == "w0 w1 rest"


def test_a_kept_completion_can_be_stopped(client: Client) -> None:
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(complete, client, model="stall", stream=True, store=True)
        wait_until(lambda: client.get("/v1/chat/conversations").json())
        chat = client.get("/v1/chat/conversations").json()[0]["id"]
        wait_until(lambda: client.history(chat)[-1]["content"] == "two words")
        session = client.history(chat)[-1]["session_id"]
        client.post("/v1/chat/stop-stream", json={"session_id": session})
        assert asking.result().text.endswith("data: [DONE]\n\n")
    assert client.history(chat)[-1]["status"] == "stopped"


def test_a_stopped_completion_that_is_not_streamed_is_no_success(client: Client) -> None:
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(complete, client, model="silent", store=True)
        wait_until(lambda: client.get("/v1/chat/conversations").json())
        chat = client.get("/v1/chat/conversations").json()[0]["id"]
        session = client.history(chat)[-1]["session_id"]
        client.post("/v1/chat/stop-stream", json={"session_id": session})
        assert asking.result().status_code == 409


def test_a_refusal_that_breaks_off_is_told(client: Client) -> None:
    for keep in (True, False):
        answer = complete(client, model="mumble:400", store=keep)
        assert answer.status_code == 502
        assert answer.json()["error"]["message"] == answer.json()["detail"]
    assert client.say(client.create(model="mumble:429"), "hi").status_code == 502


@pytest.mark.parametrize("model", ["refuse:429:1", "refuse:500"])
def test_a_refusal_of_a_kept_completion_is_the_upstreams_own(
    client: Client, upstream: Upstream, model: str
) -> None:
    answer = complete(client, model=model, store=True)
    plain = complete(client, model=model)
    assert (answer.status_code, answer.json()) == (plain.status_code, plain.json())
    assert answer.headers.get("retry-after") == plain.headers.get("retry-after")
    assert len(upstream.calls) == 2
    chat = client.get("/v1/chat/conversations").json()[0]["id"]
    assert client.history(chat)[-1]["status"] == "error"


def test_a_restart_leaves_kept_completions_to_be_continued(
    settings: Settings, upstream: Upstream
) -> None:
    with serve(settings) as client:
        chat = kept(client, USER)
    with serve(settings) as client:
        history = [USER, said("assistant", "你好, world!"), said("user", "more")]
        assert kept(client, *history) == chat
