"""The service as a process of its own: `python main.py`, settings from the environment, signals."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import Client
from tests.upstream import Upstream

MAIN = Path(__file__).parent.parent / "main.py"


def environment(path: Path, upstream: Upstream | None = None, **changes: str) -> dict[str, str]:
    """Only what a test means: nothing of the caller's own settings."""
    url = {"OPENAI_BASE_URL": upstream.url, "POE_BASE_URL": upstream.url} if upstream else {}
    values = {
        "PATH": os.environ["PATH"],
        "PORT": "0",
        "DATABASE_PATH": str(path / "chat.db"),
        "DEFAULT_PROVIDER": "openai",
        "OPENAI_API_KEY": "sk-own",
    }
    return {**values, **url, **changes}


class Process:
    """A running `main.py` and a client of it; `dev` makes Python warn, and start slowly."""

    def __init__(self, values: dict[str, str], *, dev: bool = True) -> None:
        command = [sys.executable, *(["-X", "dev"] if dev else []), str(MAIN)]
        self.popen = subprocess.Popen(
            command, env=values, stderr=subprocess.PIPE, text=True, cwd=MAIN.parent
        )
        self.log: list[str] = []
        self.client = Client(base_url=self._address(), timeout=30, trust_env=False)
        # What is not read fills the pipe, and the service would wait to log on.
        self._reading = threading.Thread(target=self._read_log)
        self._reading.start()

    def _address(self) -> str:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.log.append(line)
            if match := re.search(r"running on (http://\S+)", line):
                return match[1]
        raise AssertionError("".join(self.log))

    def _read_log(self) -> None:
        assert self.popen.stderr is not None
        self.log += self.popen.stderr

    def stop(self, number: int) -> int:
        """Send a signal; the exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(10)

    def most_memory(self) -> int:
        """The most memory it has held so far, in bytes; Linux tells."""
        return self._status("VmHWM") * 1024

    def memory(self) -> int:
        """The memory it holds, in bytes; Linux tells."""
        return self._status("VmRSS") * 1024

    def threads(self) -> int:
        return self._status("Threads")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0])

    def sockets(self) -> int:
        """How many sockets it holds; Linux tells."""
        return sum(name.startswith("socket:") for name in self.descriptors())

    def descriptors(self) -> list[str]:
        """What its open file descriptors lead to."""
        found = []
        for path in Path(f"/proc/{self.popen.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                found.append(os.readlink(path))
        return found

    def kill(self) -> None:
        """Take it away at once, as a power cut would."""
        self.popen.kill()
        self.popen.wait(10)

    def close(self) -> None:
        self.client.close()
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(10)
        self._reading.join(10)
        assert self.popen.stderr is not None
        self.popen.stderr.close()


@contextmanager
def run(values: dict[str, str], *, dev: bool = True) -> Iterator[Process]:
    process = Process(values, dev=dev)
    try:
        yield process
    finally:
        process.close()


def refused(values: dict[str, str]) -> str:
    """What a start that must fail prints; it exits with status 1."""
    done = subprocess.run(
        [sys.executable, str(MAIN)], env=values, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1, done
    return done.stderr
