"""Copies that are whole, and commands that do no harm to a running service."""

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from db import VERSION
from tests.conftest import Client, make_settings, serve, wait_until
from tests.process import MAIN, environment, run


def command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(MAIN), *map(str, arguments)],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=30,
    )


def contents(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [text for (text,) in file.execute("SELECT content FROM message ORDER BY id")]


def test_a_backup_taken_during_writing_is_of_one_moment(client: Client, tmp_path: Path) -> None:
    chat, ended = client.create(), threading.Event()

    def write() -> None:
        for number in range(150):
            client.say(chat, f"{number}", model="echo").raise_for_status()
        ended.set()

    writing = threading.Thread(target=write)
    writing.start()
    copies = []
    while not ended.is_set():
        answer = client.get("/v1/backup")
        assert answer.status_code == 200, answer.text
        copies.append(answer.content)
    writing.join()
    for number, content in enumerate(copies):
        path = tmp_path / f"copy{number}"
        path.write_bytes(content)
        said = contents(path)[::2]
        assert said == [f"{n}" for n in range(len(said))]
    assert copies


def test_a_copy_is_made_every_day_and_the_newest_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    for day in range(1, 6):
        (folder / f"chat-2020-01-0{day}.db").write_text("old")
    (folder / "mine.db").write_text("not ours to delete")
    with serve(make_settings(tmp_path, backup_dir=folder, backup_keep=3)) as client:
        client.create()
        wait_until(lambda: len(list(folder.glob("chat-*.db"))) == 3)
    names = sorted(path.name for path in folder.iterdir())
    assert names[:2] == ["chat-2020-01-04.db", "chat-2020-01-05.db"]
    assert names[3:] == ["mine.db"]
    copied = folder / names[2]
    assert contents(copied) == []
    assert copied.stat().st_mode & 0o777 == 0o600


def test_backup_and_restore_bring_back_what_was(tmp_path: Path) -> None:
    database, copied = tmp_path / "chat.db", tmp_path / "copy.db"
    with run(environment(tmp_path)) as service:
        chat = service.client.create()
        service.client.say(chat, "kept", model="echo").raise_for_status()
        done = command(tmp_path, "backup", copied)
        assert (done.returncode, done.stderr) == (0, ""), done
        assert copied.stat().st_mode & 0o777 == 0o600
        service.client.say(chat, "later", model="echo").raise_for_status()
        refused = command(tmp_path, "restore", copied)
        assert refused.returncode == 1
        assert refused.stderr == f"{database} is in use by a running service: stop it first\n"
        service.popen.kill()
    restored = command(tmp_path, "restore", copied)
    assert restored.returncode == 0, restored
    assert contents(database) == ["kept", "kept"]
    (kept,) = (
        path
        for path in tmp_path.glob("chat.db.replaced-*")
        if "-wal" not in path.name and "-shm" not in path.name
    )
    assert str(kept) in restored.stdout
    assert contents(kept) == ["kept", "kept", "later", "later"]
    with run(environment(tmp_path)) as service:
        assert len(service.client.history(chat)) == 2


def test_a_restore_refuses_what_is_damaged_or_not_ours(tmp_path: Path) -> None:
    with run(environment(tmp_path)) as service:
        service.client.say(service.client.create(), "here", model="echo").raise_for_status()
    wrong = tmp_path / "wrong"
    good = tmp_path / "good"
    assert command(tmp_path, "backup", good).returncode == 0
    damaged = bytearray(good.read_bytes())
    damaged[4096:12288] = os.urandom(8192)

    def newer() -> None:
        wrong.write_bytes(good.read_bytes())
        with closing(sqlite3.connect(wrong)) as file:
            file.execute(f"PRAGMA user_version = {VERSION + 1}")

    def foreign() -> None:
        with closing(sqlite3.connect(wrong)) as file:
            file.execute("CREATE TABLE theirs (x)")

    for make in (
        lambda: None,
        lambda: wrong.write_text("no database"),
        lambda: wrong.write_bytes(damaged),
        newer,
        foreign,
    ):
        wrong.unlink(missing_ok=True)
        make()
        done = command(tmp_path, "restore", wrong)
        assert done.returncode == 1, done
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert contents(tmp_path / "chat.db") == ["here", "here"]
    assert [path.name for path in tmp_path.glob("chat.db.*")] == ["chat.db.lock"]


def test_export_reads_beside_a_service_and_import_waits_for_its_end(tmp_path: Path) -> None:
    file, other = tmp_path / "all.json", tmp_path / "other"
    other.mkdir()
    with run(environment(tmp_path)) as service:
        service.client.say(service.client.create(), "hello", model="echo").raise_for_status()
        done = command(tmp_path, "export", file)
        assert (done.returncode, done.stderr) == (0, ""), done
        assert file.stat().st_mode & 0o777 == 0o600
        assert "hello" in file.read_text()
        refused = command(tmp_path, "import", file)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
        assert "is in use by another running service" in refused.stderr
    again = command(tmp_path, "export", file)
    assert again.returncode == 1
    assert again.stderr == f"{file}: File exists\n"
    taken = command(other, "import", file)
    assert taken.returncode == 0, taken
    assert taken.stdout.startswith("added: 2 messages, 1 conversations\n")
    assert contents(other / "chat.db") == ["hello", "hello"]


@pytest.mark.parametrize("name", ["export", "backup"])
def test_a_database_that_is_not_there_is_a_sentence_and_not_made(tmp_path: Path, name: str) -> None:
    done = command(tmp_path, name, tmp_path / "file")
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'chat.db'} does not exist\n")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_says_what_there_is(tmp_path: Path) -> None:
    done = command(tmp_path, "explode", "file")
    assert done.returncode == 2
    assert "backup" in done.stderr
