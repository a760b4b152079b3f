"""Who may call."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from errors import TOO_LARGE
from tests.conftest import Client, make_settings, serve, stream
from tests.process import environment, run
from tests.upstream import Upstream

TOKEN = "let-me-in"


LOCKED: dict[str, Any] = {
    "access_token": TOKEN,
    "allowed_hosts": ["chat.lan"],
    "allowed_origins": ["https://chat.example"],
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serve(make_settings(tmp_path_factory.mktemp("guarded"), **LOCKED)) as client:
        yield client


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service for tests that change nothing."""
    with serve(make_settings(tmp_path_factory.mktemp("standing"))) as client:
        yield client


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:80"])
def test_a_local_host_is_served(standing: Client, host: str) -> None:
    assert standing.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.com", "127.0.0.1.evil.com", "localhost.", "localhost:1@evil.com", "", "localhost:x"],
)
def test_a_foreign_host_is_refused(standing: Client, host: str) -> None:
    answer = standing.get("/health", headers={"Host": host})
    assert answer.status_code == 400
    assert "detail" in answer.json()


def test_a_host_that_is_set_is_served(guarded: Client) -> None:
    assert guarded.get("/health", headers={"Host": "chat.lan"}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "https://localhost",
        "http://127.0.0.1:5173",
        "tauri://localhost",
        "https://tauri.localhost",
    ],
)
def test_a_local_origin_gets_cors_headers_on_errors_too(standing: Client, origin: str) -> None:
    for path in ("/health", "/v1/projects/1", "/nowhere"):
        answer = standing.get(path, headers={"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    "origin",
    ["http://evil.com", "null", "http://localhost.evil.com", "http://localhost:1.evil.com", ""],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_a_foreign_origin_is_refused_whatever_the_method(
    standing: Client, method: str, origin: str
) -> None:
    answer = standing.request(method, "/v1/projects/1", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("kind", ["image", "script", "iframe", "document", "empty", ""])
def test_a_page_elsewhere_can_neither_load_nor_post_without_an_origin(
    standing: Client, method: str, kind: str
) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": kind}
    status = standing.request(method, "/v1/projects", headers=headers).status_code
    followed_link = (method, kind) == ("GET", "document")
    assert status == (200 if followed_link else 403)


def test_a_request_without_a_body_from_elsewhere_changes_nothing(client: Client) -> None:
    chat = client.create()
    for headers in (
        {"Origin": "http://evil.com"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answers = [
            client.delete(f"/v1/chat/conversations/{chat}", headers=headers),
            client.post("/v1/chat/conversations", headers=headers),
            client.post("/v1/search/rebuild", headers=headers),
        ]
        assert [answer.status_code for answer in answers] == [403] * 3
    assert len(client.get("/v1/chat/conversations").json()) == 1


def test_two_origins_are_none(client: Client) -> None:
    origin = ("Origin", "http://localhost:3000")
    headers = [origin, ("Origin", "http://evil.com")]
    assert client.get("/health", headers=[origin]).status_code == 200
    assert client.get("/health", headers=headers).status_code == 403


@pytest.mark.parametrize("origin", ["tauri://localhost", "http://localhost:3000"])
def test_a_stream_can_be_read_by_a_local_page(client: Client, origin: str) -> None:
    client.headers["Origin"] = origin
    chat = client.create(model="hello")
    with stream(client, chat) as events:
        assert events.response.headers["access-control-allow-origin"] == origin
        assert events.rest()[-1] == "[DONE]"
    path = f"/v1/chat/messages/{client.history(chat)[-1]['id']}/stream"
    assert client.get(path).headers["access-control-allow-origin"] == origin
    refused = client.say("no-such-chat", "hi", stream=True)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (404, origin)


def test_a_preflight_is_answered_and_kept(guarded: Client) -> None:
    headers = {
        "Origin": "https://chat.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = guarded.options("/v1/projects/1", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example"
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert "idempotency-key" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert int(answer.headers["access-control-max-age"]) >= 7200


@pytest.mark.parametrize(
    "kinds",
    [
        *(["text/plain"], ["application/x-www-form-urlencoded"], [""], []),
        *(["multipart/form-data; boundary=x"], ["application/jsonp"]),
        *(["text/plain; application/json"], ["application/json, text/plain"]),
        *(["application/json", "text/plain"], ["text/plain", "application/json"]),
    ],
)
def test_a_body_that_is_not_json_is_a_415(client: Client, kinds: list[str]) -> None:
    headers = [("Content-Type", kind) for kind in kinds]
    answer = client.post("/v1/projects", content=b'{"name": "x"}', headers=headers)
    assert answer.status_code == 415
    assert client.get("/v1/projects").json() == []


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/merge+json"])
def test_every_kind_of_json_is_read(client: Client, kind: str) -> None:
    answer = client.post("/v1/projects", content=b'{"name": "x"}', headers={"Content-Type": kind})
    assert answer.status_code == 200


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN, "é"])
def test_with_an_access_token_a_call_without_it_is_refused(
    guarded: Client, given: str | None
) -> None:
    headers = {b"Authorization": given.encode()} if given else {}
    answer = guarded.get("/v1/projects", headers=headers)
    assert answer.status_code == 401
    assert TOKEN not in answer.text


def test_the_access_token_opens_every_path_and_health_needs_none(guarded: Client) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/v1/projects", headers=headers).status_code == 200
    assert guarded.get("/health").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/projects", "//health", "/health/", "/HEALTH", "/health/../v1/projects", "/health;x"),
        *("/health%00", "/health%2f..%2fv1%2fprojects", "/v1/projects?/health", "/v1/%68ealth"),
        *("http://localhost/v1/projects", "*", "/docs", "/openapi.json", "/redoc", "/nowhere"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "TRACE", "get", "X"])
def test_no_other_path_is_open_however_it_is_written(
    guarded: Client, method: str, path: str
) -> None:
    url = guarded.base_url
    with socket.create_connection((url.host, url.port), 10) as sock:
        lines = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        sock.sendall(lines.encode())
        assert sock.recv(1000)[9:12] in (b"401", b"400")


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Api-Key", TOKEN)],
        [("Cookie", f"token={TOKEN}")],
        [("Proxy-Authorization", f"Bearer {TOKEN}")],
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")],
        [("Authorization", "Bearer other"), ("Authorization", f"Bearer {TOKEN}")],
        [("Authorization", f"Bearer {TOKEN}, Bearer other")],
        [("Authorization", f"Bearer {TOKEN[:-1]}")],
        [("Authorization", f"Bearer {TOKEN.upper()}")],
    ],
)
def test_there_is_one_way_to_send_the_token(
    guarded: Client, headers: list[tuple[str, str]]
) -> None:
    assert guarded.get("/v1/projects", headers=headers).status_code == 401
    assert guarded.get("/v1/projects", params={"access_token": TOKEN}).status_code == 401


def test_nothing_that_is_answered_is_taken_for_a_page(guarded: Client) -> None:
    for path in ("/health", "/v1/projects", "/nowhere"):
        assert guarded.get(path).headers["x-content-type-options"] == "nosniff"


def test_a_forwarded_address_is_not_believed(client: Client) -> None:
    headers = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost", "Host": "evil.com"}
    assert client.get("/health", headers=headers).status_code == 400


def test_the_access_token_is_never_sent_to_a_provider(tmp_path: Path, upstream: Upstream) -> None:
    with serve(make_settings(tmp_path, upstream, **LOCKED)) as guarded:
        guarded.headers["Authorization"] = f"Bearer {TOKEN}"
        assert guarded.say(guarded.create(model="hello"), "hi").status_code == 200
    assert TOKEN not in str(upstream.calls[-1].headers)


def test_a_body_over_the_limit_is_a_413(tmp_path: Path) -> None:
    with serve(make_settings(tmp_path, max_body_mb=0.01)) as client:
        body = {"name": "x" * 20_000}
        chunks = iter([b'{"name": "', b"x" * 20_000, b'"}'])
        declared = client.post("/v1/projects", json=body)
        streamed = client.post(
            "/v1/projects", content=chunks, headers={"Content-Type": "application/json"}
        )
        assert (declared.status_code, streamed.status_code) == (413, 413)
        assert declared.json() == streamed.json() == {"detail": TOO_LARGE}
        assert client.get("/v1/projects").json() == []


def test_a_body_that_nobody_reads_cuts_no_stream_off(tmp_path: Path, upstream: Upstream) -> None:
    with run(environment(tmp_path, upstream, MAX_BODY_MB="0.01")) as service:
        client = service.client
        chat = client.create(model="gate:2")
        with stream(client, chat) as events:
            path = f"/v1/chat/messages/{events.next()['assistant_message_id']}/stream"
            chunks = iter([b"x" * 20_000] * 2)
            with client.stream("GET", path, content=chunks) as followed:
                upstream.open_gate()
                assert "[DONE]" in followed.read().decode()
        service.stop(signal.SIGTERM)
    assert "Traceback" not in "".join(service.log)
