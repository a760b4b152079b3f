"""What a hostile client may put on a socket, or leave out, or leave unread."""

import select
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from connections import MOST_CONNECTIONS
from guard import LARGEST_HEAD
from tests.conftest import Client, make_settings, serve, wait_until
from tests.process import environment, run
from tests.upstream import Upstream

HOST = b"Host: localhost\r\n"
JSON = HOST + b"Content-Type: application/json\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /v1/projects HTTP/1.1\r\n" + JSON
END = b"Connection: close\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service for tests that change nothing."""
    with serve(make_settings(tmp_path_factory.mktemp("standing"))) as client:
        yield client


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Client]:
    """A service that does not wait for clients."""
    with serve(make_settings(tmp_path, client_timeout=0.2)) as client:
        yield client


def connect(client: Client, data: bytes = b"", *, room: int | None = None) -> socket.socket:
    """A connection, with `room` for so many bytes that have not been read."""
    sock = socket.socket()
    sock.settimeout(10)
    if room:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    sock.connect((client.base_url.host, client.base_url.port))
    sock.sendall(data)
    return sock


def rest(sock: socket.socket) -> bytes:
    """All that comes until the service closes the connection."""
    received = b""
    try:
        while data := sock.recv(65_536):
            received += data
    except ConnectionResetError:
        pass
    return received


def exchange(client: Client, data: bytes) -> bytes:
    with connect(client, data) as sock:
        return rest(sock)


def is_alive(client: Client) -> bool:
    return client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9 + b"\r\n\r\n", id="TLS"),
        pytest.param(b"GARBAGE\r\n\r\n", id="no request"),
        pytest.param(b"GET /health HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(GET + b"Host: evil.com\r\n\r\n", id="two hosts"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n", id="blank before colon"),
        pytest.param(GET + b"X: a\0b\r\n\r\n", id="NUL in a header"),
        pytest.param(GET + b"Authorization: Bearer a\rX-Key: b\r\n\r\n", id="CR in a key"),
        pytest.param(POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", id="two lengths"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", id="endless length"),
        pytest.param(POST + b"Transfer-Encoding: gzip\r\n\r\n{}", id="unknown encoding"),
        pytest.param(CHUNKED + b"ZZ\r\n{}\r\n0\r\n\r\n", id="no chunk size"),
        pytest.param(b"GET /h\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", id="raw UTF-8 in the path"),
    ],
)
def test_what_is_no_http_is_refused_and_the_connection_closed(
    standing: Client, data: bytes
) -> None:
    answer = exchange(standing, data)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'\r\n\r\n{"detail":"' in answer
    assert is_alive(standing)


def test_a_body_with_two_ends_smuggles_no_second_request(client: Client) -> None:
    smuggled = b"0\r\n\r\nDELETE /v1/projects/1 HTTP/1.1\r\n" + HOST + b"\r\n"
    data = POST + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    answer = exchange(client, data % len(smuggled) + smuggled)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_garbage_behind_a_refused_body_does_no_harm(tmp_path: Path) -> None:
    with run(environment(tmp_path)) as service:
        text = CHUNKED.replace(b"application/json", b"text/plain")
        assert exchange(service.client, text + b"2\r\n{}\r\nZZ\r\n")
        assert is_alive(service.client)
    assert "Traceback" not in "".join(service.log)
    assert "ERROR" not in "".join(service.log)


@pytest.mark.parametrize("kind", [b"X: ", b"Authorization: Bearer ", b"Cookie: "])
def test_a_huge_head_is_refused(client: Client, kind: bytes) -> None:
    # Whether it arrives in one piece decides who refuses it: the parser, or the guard.
    answer = exchange(client, GET + END + kind + b"a" * 2 * LARGEST_HEAD + b"\r\n\r\n")
    assert answer[9:12] in (b"431", b"400", b"")
    assert is_alive(client)


def test_a_head_of_many_headers_is_refused_or_served_but_never_a_crash(client: Client) -> None:
    lines = b"".join(b"X-%d: y\r\n" % number for number in range(8000))
    answer = exchange(client, GET + lines + END + b"\r\n")
    assert answer[9:12] in (b"200", b"400", b"431")
    assert is_alive(client)


def test_a_websocket_is_not_opened_whoever_asks_and_fills_no_log(tmp_path: Path) -> None:
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    with run(environment(tmp_path)) as service:
        for origin, status in ((b"http://evil.com", b"403"), (b"http://localhost:3000", b"200")):
            data = GET + upgrade + b"Origin: " + origin + b"\r\n\r\n"
            with connect(service.client, data) as sock:
                assert sock.recv(65_536)[9:12] == status
        assert is_alive(service.client)
    assert "WARNING" not in "".join(service.log)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /health HT", id="half a line"),
        pytest.param(GET + b"X: y\r\n", id="half a head"),
        pytest.param(POST + b'Content-Length: 99\r\n\r\n{"name": "', id="half a body"),
        pytest.param(CHUNKED + b'9\r\n{"name": \r\n', id="half a body in chunks"),
    ],
)
def test_a_client_that_stops_in_the_middle_is_dropped(hasty: Client, data: bytes) -> None:
    assert b" 200 " not in exchange(hasty, data)
    assert hasty.get("/v1/projects").json() == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GET + b"X: ", id="head"),
        pytest.param(POST + b'Content-Length: 9999\r\n\r\n{"name": "', id="body"),
        pytest.param(
            POST.replace(b"json", b"text") + b"Content-Length: 9999\r\n\r\n", id="refused body"
        ),
    ],
)
def test_a_client_that_sends_a_byte_now_and_then_is_dropped(hasty: Client, data: bytes) -> None:
    with connect(hasty, data) as sock, suppress(ConnectionError):
        while not select.select([sock], [], [], 0.05)[0] or sock.recv(65_536):
            sock.send(b"x")


def test_a_client_that_leaves_in_the_middle_of_its_body_fills_no_log(tmp_path: Path) -> None:
    with run(environment(tmp_path)) as service:
        idle = service.sockets()
        for path in (b"/v1/projects", b"/v1/import", b"/v1/chat/completions"):
            body = b'Content-Length: 99\r\n\r\n{"'
            connect(service.client, b"POST " + path + b" HTTP/1.1\r\n" + JSON + body).close()
        wait_until(lambda: service.sockets() == idle)
    assert "Traceback" not in "".join(service.log)


def test_a_slow_but_steady_upload_is_not_dropped(tmp_path: Path) -> None:
    body = b'{"name": "x"' + b" " * 60_000 + b"}"
    with (
        serve(make_settings(tmp_path, client_timeout=0.5)) as client,
        connect(client, POST + END + b"Content-Length: %d\r\n\r\n" % len(body)) as sock,
    ):
        for start in range(0, len(body), 2000):
            sock.sendall(body[start : start + 2000])
            select.select([sock], [], [], 0.05)
        assert b" 200 " in rest(sock)


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are counted in /proc")
def test_a_reader_that_takes_nothing_is_dropped_and_its_turn_completes(
    tmp_path: Path, upstream: Upstream
) -> None:
    with run(environment(tmp_path, upstream, CLIENT_TIMEOUT="0.5"), dev=False) as service:
        client = service.client
        idle = service.sockets()
        chat = client.create(model="big:1000000:12")
        body = b'{"role": "user", "content": "hi", "stream": true}'
        path = f"/v1/chat/conversations/{chat}/messages".encode()
        request = b"POST " + path + b" HTTP/1.1\r\n" + JSON + b"Content-Length: %d\r\n\r\n"
        with connect(client, request % len(body) + body, room=4096) as sock:
            assert sock.recv(1000)
            client.close()
            wait_until(lambda: service.sockets() == idle, 30)
            assert b"[DONE]" not in rest(sock)
        with Client(base_url=client.base_url, trust_env=False) as again:
            wait_until(lambda: again.history(chat)[-1]["status"] == "complete", 30)
            assert again.history(chat)[-1]["content"] == "x" * 12_000_000
    assert "Traceback" not in "".join(service.log)
    assert "ERROR" not in "".join(service.log)


def test_connections_beyond_the_most_are_closed_and_room_comes_back(tmp_path: Path) -> None:
    with run(environment(tmp_path), dev=False) as service:
        held = [connect(service.client) for _ in range(MOST_CONNECTIONS)]
        late = connect(service.client)
        assert rest(late) == b""
        for sock in (*held, late):
            sock.close()
        wait_until(lambda: exchange(service.client, GET + END + b"\r\n"))
    assert "Traceback" not in "".join(service.log)
