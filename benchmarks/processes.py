"""The processes under test, and what they take: upstream, floor, and the service of a checkout."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
ROOT = Path(__file__).parent.parent
PATIENCE = 60.0
UNLIMITED = {"MAX_TURNS": "2000", "MAX_FOLLOWERS": "2000"}
POLL_PAUSE = 0.002


class Failed(Exception):
    """A command did not end well, or a server did not start."""


class Process:
    """A running server on a port of its own, and how long it took until it answered."""

    def __init__(self, command: list[str], checkout: Path, values: dict[str, str]) -> None:
        self.port = free_port()
        command = [word.replace("{port}", str(self.port)) for word in command]
        values = {"PATH": os.environ["PATH"], "PORT": str(self.port), **UNLIMITED, **values}
        started = time.perf_counter()
        self._popen = subprocess.Popen([sys.executable, *command], cwd=checkout, env=values)
        self._wait_for_health(started + PATIENCE)
        self.start_seconds = time.perf_counter() - started

    def _wait_for_health(self, deadline: float) -> None:
        while not _healthy(self.port):
            if self._popen.poll() is not None or time.perf_counter() > deadline:
                self.stop()
                raise Failed(f"{self._popen.args!r} did not start")
            time.sleep(POLL_PAUSE)

    def memory(self) -> float:
        """What it holds now, in MB."""
        return memory(self._popen.pid, "VmRSS")

    def processor(self) -> float:
        """The processor time it has taken so far, in seconds."""
        fields = Path(f"/proc/{self._popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(15)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def upstream() -> Process:
    return Process(["-m", "benchmarks.upstream", "{port}"], ROOT, {})


def floor(upstream_port: int) -> Process:
    return Process(["-m", "benchmarks.floor", "{port}", str(upstream_port)], ROOT, {})


def service(checkout: Path, database: Path, upstream_port: int) -> Process:
    values = {
        "DATABASE_PATH": str(database),
        "DEFAULT_PROVIDER": "openai",
        "OPENAI_API_KEY": "sk-benchmark",
        "OPENAI_BASE_URL": f"http://{HOST}:{upstream_port}/v1",
        "LOG_LEVEL": "warning",
    }
    return Process(["main.py"], checkout, values)


@dataclass(frozen=True)
class Done:
    """A command that ended well."""

    seconds: float
    memory: float  # the most it held, in MB
    output: str


def run(command: list[str], checkout: Path, values: dict[str, str]) -> Done:
    """Run a command to its end."""
    values = {"PATH": os.environ["PATH"], **values}
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            [sys.executable, *command],
            cwd=checkout,
            env=values,
            stdout=output,
            stderr=subprocess.DEVNULL,
        ) as popen,
    ):
        most = 0.0
        while popen.poll() is None:
            with suppress(FileNotFoundError, IndexError):
                most = memory(popen.pid, "VmHWM")
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        output.seek(0)
        if popen.returncode:
            raise Failed(f"{command} failed")
        return Done(seconds, most, output.read())


def memory(pid: int, name: str) -> float:
    """A figure that Linux tells of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) / 1000


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        port: int = listening.getsockname()[1]
        return port


def _healthy(port: int) -> bool:
    """Whether it answers; the upstream and the floor answer anything."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            return connection.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False
