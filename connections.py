"""Connections, kept only as long as their clients play their part.

uvicorn by itself waits for ever: for the rest of a request, and for a reader who takes nothing.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 512
# A body that comes more slowly, in bytes a second, counts as not coming.
SLOWEST_BODY = 1000
MALFORMED = b'{"detail":"This is not an HTTP request that can be read"}'
MALFORMED_HEAD = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n" % len(MALFORMED)
)


class Connection(H11Protocol):
    """uvicorn's connection, dropped when its client stalls for CLIENT_TIMEOUT seconds.

    It is looked at every so often, and dropped when the client had something to do at two looks and
    did not get on with it between them. The parser is h11, not the faster httptools, which answers
    HTTP/1.0 in chunks and has no limit for a head that does not end.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience: float = self.config.app.state.settings.client_timeout  # type: ignore[union-attr]
        self._received = self._resumed = 0
        self._seen: object = None
        self._looking = self.loop.call_later(self._patience, self._look)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._looking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def resume_writing(self) -> None:
        self._resumed += 1
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the shape of all errors; what has begun is ended."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(MALFORMED_HEAD + MALFORMED)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """A page may try a WebSocket as often as it likes: it is refused, and fills no log."""

    def _look(self) -> None:
        awaited = self._awaited()
        if awaited is not None and awaited == self._seen:
            self.transport.abort()
            return
        self._seen = awaited
        self._looking = self.loop.call_later(self._patience, self._look)

    def _awaited(self) -> object:
        """What the client has to get on with, and how far it has got; None where it is our turn."""
        if unsent := self.transport.get_write_buffer_size():
            return "answer", self._resumed, unsent
        if self.cycle is None or self.cycle.response_complete:
            return "head", self.cycle
        if self.cycle.more_body and not self.flow.read_paused:
            return "body", self.cycle, int(self._received / (SLOWEST_BODY * self._patience))
        return None
