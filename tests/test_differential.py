"""The same request, sent straight to the provider and through the service, is answered the same."""

from typing import Any

import httpx2
import pytest

from tests.conftest import Client
from tests.upstream import Upstream

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
TOLD = ("x-request-id", "retry-after", "x-ratelimit-remaining-requests")

# Every documented field of a request, and some that are not.
FIELDS: list[dict[str, Any]] = [
    {"messages": [{"role": "developer", "content": "x"}, *MESSAGES]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "字 \u2028 👋"}]}]},
    {"messages": [{"role": "user", "name": "me", "content": "x"}]},
    {"messages": [*MESSAGES, {"role": "tool", "tool_call_id": "1", "content": "{}"}]},
    {"audio": {"voice": "alloy", "format": "wav"}},
    {"frequency_penalty": 0.5},
    {"function_call": "auto", "functions": []},
    {"logit_bias": {"50256": -100}},
    {"logprobs": True, "top_logprobs": 2},
    {"max_completion_tokens": 5},
    {"max_tokens": 5},
    {"metadata": {"mine": "yes"}},
    {"modalities": ["text"]},
    {"n": 2},
    {"parallel_tool_calls": False},
    {"prediction": {"type": "content", "content": "x"}},
    {"presence_penalty": -0.5},
    {"prompt_cache_key": "k"},
    {"reasoning_effort": "low"},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
    {"safety_identifier": "s"},
    {"seed": 12345678901234567890},
    {"service_tier": "flex"},
    {"stop": ["a", "b"]},
    {"store": False},
    {"stream_options": {"include_usage": True, "include_obfuscation": False}},
    {"temperature": 0},
    {"temperature": 0.1},
    {"tool_choice": {"type": "function", "function": {"name": "now"}}, "tools": TOOLS},
    {"top_p": 1e-9},
    {"user": "me"},
    {"verbosity": "low"},
    {"web_search_options": {}},
    {"unknown": {"deep": [None, True, 1.5, "字", {}]}},
    {"extra": None},
]
# Every shape of an answer.
ANSWERS = [
    *("hello", "repeat", "words:50", "whole", "tool", "no-done", "no-finish", "crlf", "bad-utf8"),
    *("rich:refusal", "rich:reasoning", "rich:unknown", "rich:audio", "rich:annotations"),
    *("rich:choices", "rich:logprobs", "reasoning:reasoning", "thinking:elapsed:7"),
    *("raw:data: {bad", 'raw:data: {"error": {"message": "m"}}', "raw:data: 42", "raw:: ping"),
    *('raw:data: {"choices": null}', "big:100000:3", "html"),
    *(
        f"refuse:{s}"
        for s in (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529)
    ),
    *("refuse:429:7", "refuse:503:120"),
]


def both(client: Client, upstream: Upstream, body: dict[str, Any]) -> list[httpx2.Response]:
    """The answer of the provider itself, and ours; the provider was sent the same by both."""
    key = {"Authorization": "Bearer sk-the-services-own-key"}
    with httpx2.Client(trust_env=False) as direct:
        theirs = direct.post(f"{upstream.url}/chat/completions", json=body, headers=key)
    ours = client.post("/v1/chat/completions", json=body)
    straight, through = upstream.calls
    assert through.body == straight.body
    assert through.path == straight.path
    return [theirs, ours]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: "-".join(fields))
def test_every_field_of_a_request_goes_up(
    client: Client, upstream: Upstream, fields: dict[str, Any]
) -> None:
    theirs, ours = both(client, upstream, {"model": "hello", "messages": MESSAGES, **fields})
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ANSWERS)
def test_every_byte_of_an_answer_comes_back(
    client: Client, upstream: Upstream, model: str, stream: bool
) -> None:
    body = {"model": model, "messages": MESSAGES, "stream": stream}
    theirs, ours = both(client, upstream, body)
    assert ours.status_code == theirs.status_code
    assert [ours.headers.get(name) for name in TOLD] == [theirs.headers.get(name) for name in TOLD]
    assert "x-secret" not in ours.headers
    if theirs.status_code == 200:
        assert ours.content == theirs.content
        expected = theirs.headers["content-type"].partition(";")[0]
        assert ours.headers["content-type"].partition(";")[0] == expected
    else:
        told = {**theirs.json()["error"], "message": "No: Bearer [key]"}
        assert ours.json()["error"] == told
        assert ours.json()["detail"] == "No: Bearer [key]"
