"""The official Python client against the service: what its users do, in its own words."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI, Stream
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
)

from tests.conftest import Client, make_settings, serve
from tests.upstream import Upstream

USER: ChatCompletionMessageParam = {"role": "user", "content": "hi"}
NOW: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "now",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string"}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}


def connect(client: Client, **options: Any) -> OpenAI:
    """The official client, pointed at the service as a person would, but for its retries."""
    options = {"api_key": "sk-any", "max_retries": 0, **options}
    return OpenAI(
        base_url=f"{client.base_url}/v1",
        http_client=openai.DefaultHttpxClient(trust_env=False),
        **options,
    )


@pytest.fixture
def sdk(client: Client) -> Iterator[OpenAI]:
    with connect(client) as sdk:
        yield sdk


def run(client: Client, use: Callable[[AsyncOpenAI], Awaitable[None]]) -> None:
    """Use the asynchronous client, on a loop of its own."""

    async def main() -> None:
        http_client = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with AsyncOpenAI(
            base_url=f"{client.base_url}/v1",
            api_key="sk-any",
            max_retries=0,
            http_client=http_client,
        ) as sdk:
            await use(sdk)

    asyncio.run(main())


def text(chunks: Iterable[ChatCompletionChunk]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def ask(sdk: OpenAI, model: str = "hello", **body: Any) -> Stream[ChatCompletionChunk]:
    chunks: Stream[ChatCompletionChunk] = sdk.chat.completions.create(
        model=model, messages=[USER], stream=True, **body
    )
    return chunks


def refused(sdk: OpenAI, kind: type[openai.APIStatusError], model: str, **body: Any) -> Any:
    """The error that a chat ends in, of exactly this class."""
    with pytest.raises(kind) as caught:
        sdk.chat.completions.create(model=model, messages=[USER], **body)
    assert type(caught.value) is kind
    return caught.value


# Chats


def test_a_chat_answers(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(model="official", messages=[USER])
    assert answer.choices[0].message.content == "1 messages"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.total_tokens == 8


def test_a_chat_streams(sdk: OpenAI) -> None:
    with ask(sdk) as chunks:
        assert text(chunks) == "你好, world!"


def test_a_chat_answers_and_streams_asynchronously(client: Client) -> None:
    async def use(sdk: AsyncOpenAI) -> None:
        answer = await sdk.chat.completions.create(model="official", messages=[USER])
        assert answer.choices[0].message.content == "1 messages"
        stream = await sdk.chat.completions.create(model="hello", messages=[USER], stream=True)
        async with stream:
            assert text([chunk async for chunk in stream]) == "你好, world!"

    run(client, use)


def test_many_chats_stream_at_once(client: Client) -> None:
    async def use(sdk: AsyncOpenAI) -> None:
        async def one(count: int) -> str:
            stream = await sdk.chat.completions.create(
                model=f"words:{count}:0.001", messages=[USER], stream=True, store=count % 2 == 0
            )
            async with stream:
                return text([chunk async for chunk in stream])

        told = await asyncio.gather(*map(one, range(20)))
        assert told == ["".join(f"w{n} " for n in range(count)) for count in range(20)]

    run(client, use)


def test_echo_is_a_model_like_any_other(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(model="echo", messages=[USER])
    assert answer.choices[0].message.content == "hi"
    with ask(sdk, "echo") as chunks:
        assert text(chunks) == "hi"


def test_the_usage_comes_last_where_it_is_asked_for(sdk: OpenAI, upstream: Upstream) -> None:
    with ask(sdk, stream_options={"include_usage": True}) as chunks:
        *_, last = chunks
    assert upstream.calls[-1].body["stream_options"] == {"include_usage": True}
    assert last.choices == []
    assert last.usage
    assert last.usage.total_tokens == 8


@pytest.mark.parametrize("store", [False, True])
def test_headers_can_be_read(sdk: OpenAI, client: Client, store: bool) -> None:
    create = sdk.chat.completions.with_raw_response.create
    answer = create(model="official", messages=[USER], store=store)
    assert answer.parse().choices[0].message.content == "1 messages"
    if store:
        chat = answer.headers["x-conversation-id"]
        assert [m["content"] for m in client.history(chat)] == ["hi", "1 messages"]
    else:
        assert answer.headers["x-request-id"] == answer.request_id == "req-1"


@pytest.mark.parametrize("store", [False, True])
def test_headers_of_a_stream_come_before_its_end(
    sdk: OpenAI, client: Client, upstream: Upstream, store: bool
) -> None:
    create = sdk.chat.completions.with_streaming_response.create
    with create(model="gate", messages=[USER], stream=True, store=store) as answer:
        assert ("x-conversation-id" in answer.headers) == store
        upstream.open_gate()
        assert text(answer.parse()) == "w0 w1 w2 rest"


def test_fields_the_client_does_not_know_pass_both_ways(sdk: OpenAI, upstream: Upstream) -> None:
    with ask(sdk, "rich:unknown", extra_body={"web_search": True}) as chunks:
        first = next(iter(chunks))
    assert upstream.calls[-1].body["web_search"] is True
    assert first.choices[0].delta.model_extra == {"surprise": {"deep": [1, 2.5, None, True, "字"]}}


# Tools


@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("model", ["tool", "official"])
def test_a_tool_is_called_and_its_answer_is_heard(
    sdk: OpenAI, client: Client, model: str, store: bool
) -> None:
    # Any, because the client's own types do not let its messages go back as they came.
    messages: list[Any] = [USER]
    asked: dict[str, Any] = {"model": model, "messages": messages, "tools": [NOW], "store": store}
    for _ in range(2):
        if model == "tool":
            with sdk.chat.completions.stream(**asked) as stream:
                message = stream.get_final_completion().choices[0].message
        else:
            message = sdk.chat.completions.create(**asked).choices[0].message
        messages.append(message)
        for call in message.tool_calls or []:
            assert call.type == "function"
            assert (call.function.name, call.function.arguments) == ("now", '{"zone": "UTC"}')
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "12:00"})
    assert message.content == ("It is noon." if model == "tool" else "3 messages")
    chats = client.get("/v1/chat/conversations").json()
    assert len(chats) == store
    for chat in chats:
        roles = [told["role"] for told in client.history(chat["id"])]
        assert roles == ["user", "assistant", "tool", "assistant"]


# Errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (402, openai.APIStatusError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (408, openai.APIStatusError),
        (409, openai.ConflictError),
        (413, openai.APIStatusError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("store", [True, False])
def test_a_refusal_is_the_upstreams_own(
    sdk: OpenAI, status: int, kind: type[openai.APIStatusError], store: bool
) -> None:
    for stream in (True, False):
        error = refused(sdk, kind, f"refuse:{status}:7:too_bad", stream=stream, store=store)
        assert error.status_code == status
        assert error.body == {"message": "No: Bearer [key]", "type": "x", "code": "too_bad"}
        assert (error.code, error.type, error.param) == ("too_bad", "x", None)
        assert error.response.headers["retry-after"] == "7"
        assert error.response.json()["detail"] == "No: Bearer [key]"


def test_what_the_service_refuses_itself_has_the_clients_classes(
    sdk: OpenAI, tmp_path: Path, upstream: Upstream
) -> None:
    error = refused(sdk, openai.AuthenticationError, "poe/x", extra_headers={"Authorization": ""})
    assert error.type == "authentication_error"
    assert "POE_API_KEY" in error.body["message"]
    named = {"conversation_id": "nowhere"}
    error = refused(sdk, openai.NotFoundError, "hello", metadata=named)
    assert error.body["message"] == "Conversation not found"
    refused(sdk, openai.UnprocessableEntityError, "hello", metadata={"conversation_id": 5})
    origin = {"Origin": "https://elsewhere.example"}
    refused(sdk, openai.PermissionDeniedError, "hello", extra_headers=origin)
    refused(sdk, openai.BadRequestError, "hello", extra_headers={"Host": "elsewhere.example"})
    with (
        serve(make_settings(tmp_path / "small", upstream, max_body_mb=0.001)) as client,
        connect(client) as small,
    ):
        error = refused(small, openai.APIStatusError, "hello", extra_body={"x": "x" * 1000})
    assert error.status_code == 413
    assert len(upstream.calls) == 0


def test_a_token_is_the_clients_key(tmp_path: Path, upstream: Upstream) -> None:
    with serve(make_settings(tmp_path, upstream, access_token="sesame")) as client:
        with connect(client) as wrong:
            error = refused(wrong, openai.AuthenticationError, "hello")
            assert "ACCESS_TOKEN" in error.body["message"]
        with connect(client, api_key="sesame") as right, ask(right) as chunks:
            assert text(chunks) == "你好, world!"
    assert upstream.calls[-1].headers["authorization"] != "Bearer sesame"


def test_a_conversation_that_is_being_answered_is_a_conflict(
    sdk: OpenAI, client: Client, upstream: Upstream
) -> None:
    named = {"conversation_id": client.create()}
    with ask(sdk, "gate", metadata=named) as chunks:
        error = refused(sdk, openai.ConflictError, "hello", metadata=named)
        session = client.history(named["conversation_id"])[-1]["session_id"]
        assert error.response.json()["session_id"] == session
        upstream.open_gate()
        assert text(chunks) == "w0 w1 w2 rest"


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(("status", "calls"), [(503, 2), (429, 2), (400, 1)])
def test_the_clients_own_retries_reach_the_upstream_once_each(
    client: Client, upstream: Upstream, status: int, calls: int, store: bool
) -> None:
    with connect(client, max_retries=2) as sdk:
        create = sdk.chat.completions.with_raw_response.create
        model = f"flaky:{status}:1"
        if status == 400:
            refused(sdk, openai.BadRequestError, model, store=store)
        else:
            answer = create(model=model, messages=[USER], stream=True, store=store)
            assert answer.retries_taken == 1
            with answer.parse() as chunks:
                assert text(chunks) == "你好, world!"
    assert len(upstream.calls) == calls


def test_no_connection_to_the_upstream_is_an_error_of_the_server(tmp_path: Path) -> None:
    with serve(make_settings(tmp_path)) as client, connect(client) as sdk:
        error = refused(sdk, openai.InternalServerError, "hello")
    assert (error.status_code, error.type) == (502, "server_error")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_loses_patience_closes_the_upstream(
    sdk: OpenAI, upstream: Upstream, stream: bool
) -> None:
    with pytest.raises(openai.APITimeoutError):
        sdk.chat.completions.create(model="silent", messages=[USER], stream=stream, timeout=0.3)
    assert upstream.calls[-1].hung_up.wait(2)


def test_a_stream_that_is_left_closes_the_upstream(sdk: OpenAI, upstream: Upstream) -> None:
    with ask(sdk, "words:1000:0.01") as chunks:
        next(iter(chunks))
    assert upstream.calls[-1].hung_up.wait(2)


def test_a_cancelled_task_closes_the_upstream(client: Client, upstream: Upstream) -> None:
    async def use(sdk: AsyncOpenAI) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await sdk.chat.completions.create(model="silent", messages=[USER])

    run(client, use)
    assert upstream.calls[-1].hung_up.wait(2)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(
    ("model", "message", "before"),
    [
        ("cut:in-text", "The upstream broke off", "half a "),
        ("cut:in-character", "The upstream broke off", "half a "),
        ('raw:data: {"error": {"message": "no more", "code": 500}}', "no more", "text"),
    ],
)
def test_an_error_inside_a_stream_is_raised_after_the_text(
    sdk: OpenAI, model: str, message: str, before: str, store: bool
) -> None:
    with ask(sdk, model, store=store) as chunks:
        assert text([next(chunks)]) == before
        with pytest.raises(openai.APIError, match=message) as caught:
            next(chunks)
    assert not isinstance(caught.value, openai.APIStatusError)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == message


# Everything else


def test_models_are_listed_and_found(sdk: OpenAI, client: Client) -> None:
    names = [model.id for model in sdk.models.list()]
    assert names == [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert "openai/hello" in names
    for name in names:
        assert sdk.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("poe/nobody")


def test_every_listed_model_can_be_asked_under_its_name(sdk: OpenAI) -> None:
    for model in ("echo", "openai/hello"):
        with ask(sdk, model) as chunks:
            assert text(chunks)


def test_embeddings_are_passed_through(sdk: OpenAI, upstream: Upstream) -> None:
    # The client asks for bytes by itself and reads them as numbers.
    answer = sdk.embeddings.create(model="embedding", input="x")
    assert answer.data[0].embedding == [0.5, -1.0, 2.0]
    assert upstream.calls[-1].body["encoding_format"] == "base64"


def test_responses_are_passed_through(sdk: OpenAI) -> None:
    assert sdk.responses.create(model="response", input="x").output_text == "hello"
    with sdk.responses.create(model="response", input="x", stream=True) as events:
        assert [event.type for event in events] == [
            "response.output_text.delta",
            "response.completed",
        ]


def test_what_is_passed_through_is_raw(sdk: OpenAI, client: Client) -> None:
    body = {"model": "response", "input": "x"}
    raw = sdk.responses.with_raw_response.create(model="response", input="x")
    assert raw.http_response.content == client.post("/v1/responses", json=body).content


# Memory


@pytest.mark.parametrize("model", ["hello", "official", "echo"])
def test_a_chat_that_grows_is_one_conversation(sdk: OpenAI, client: Client, model: str) -> None:
    messages: list[Any] = [{"role": "system", "content": "be kind"}]
    said = ["be kind"]
    for question in ("one", "two", "three"):
        messages.append({"role": "user", "content": question})
        if model == "official":
            answer = sdk.chat.completions.create(model=model, messages=messages, store=True)
            messages.append(answer.choices[0].message)
            reply = answer.choices[0].message.content or ""
        else:
            with sdk.chat.completions.create(
                model=model, messages=messages, store=True, stream=True
            ) as chunks:
                reply = text(chunks)
            messages.append({"role": "assistant", "content": reply})
        said += [question, reply]
    [chat] = client.get("/v1/chat/conversations").json()
    assert [message["content"] for message in client.history(chat["id"])] == said
