"""Copies of the database file, taken while it is in use, and checked before they count.

A copy is made by SQLite itself from one snapshot: a file copied by other means while the service
writes may be a mixture of two moments.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from db import BUSY_TIMEOUT_MS, VERSION, StartError

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 3600
PROGRESS_STEPS = 100_000

Progress = Callable[[int, int], None]


class BackupError(Exception):
    """A copy cannot be made or used; the message is one sentence for a person."""


def copy(path: Path, target: Path, progress: Progress | None = None) -> None:
    """A consistent copy at `target`, which must not exist or be empty; nothing if it fails."""
    if not path.is_file():
        raise BackupError(f"{path} does not exist")
    if target.exists() and target.stat().st_size:
        raise BackupError(f"{target} exists already")
    try:
        # SQLite would make it readable for everyone.
        os.close(os.open(target, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(_reading(path)) as source:
            if progress:
                _watch(source, path, target, progress)
            source.execute("VACUUM INTO ?", (str(target),))
        _check(target)
    except (OSError, sqlite3.Error, BackupError) as error:
        target.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else error
        raise BackupError(f"{path} cannot be copied to {target}: {reason}") from None


def restore(path: Path, source: Path, progress: Progress | None = None) -> Path | None:
    """Put the copy `source` in the database's place; where what was there is kept, if it was.

    Refused while a service is running on it, and where the copy is damaged or of another program.
    """
    lock = FileLock(f"{path}.lock", mode=0o600)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise StartError(f"{path} is in use by a running service: stop it first") from None
    try:
        part = path.with_name(f"{path.name}.restore")
        part.unlink(missing_ok=True)
        copy(source, part, progress)
        try:
            _check_ours(part, source)
            kept = _keep(path)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return kept
    finally:
        lock.release()


async def keep_daily(path: Path, folder: Path, keep: int) -> None:
    """A copy a day in this folder, the newest kept; looks every hour, until it is cancelled."""
    while True:
        try:
            await asyncio.to_thread(_daily, path, folder, keep)
        except (OSError, BackupError) as error:
            log.warning("Today's backup is not made yet: %s", error)
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _daily(path: Path, folder: Path, keep: int) -> None:
    folder.mkdir(0o700, parents=True, exist_ok=True)
    copied = folder / f"{path.stem}-{datetime.now(UTC):%Y-%m-%d}.db"
    if not copied.exists():
        part = folder / f"{copied.name}.part"
        part.unlink(missing_ok=True)
        copy(path, part)
        os.replace(part, copied)
    dated = f"{path.stem}-[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].db"
    for old in sorted(folder.glob(dated))[:-keep]:
        old.unlink()


def _reading(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    return connection


def _watch(source: sqlite3.Connection, path: Path, target: Path, progress: Progress) -> None:
    def told() -> int:
        progress(target.stat().st_size, path.stat().st_size)
        return 0

    source.set_progress_handler(told, PROGRESS_STEPS)


def _check(path: Path) -> None:
    with closing(_reading(path)) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise BackupError(f"it is damaged ({found})")


def _check_ours(part: Path, source: Path) -> None:
    _check(source)
    with closing(_reading(part)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        query = "SELECT count(*) FROM sqlite_master WHERE name IN ('conversation', 'message')"
        (tables,) = connection.execute(query).fetchone()
    if version > VERSION:
        raise BackupError(f"{source} was written by a newer version of this program")
    if version < 1 or tables != 2:
        raise BackupError(f"{source} is the database of another program")


def _keep(path: Path) -> Path | None:
    """Move the database aside, with what its log still holds."""
    if not path.exists():
        return None
    kept = path.with_name(f"{path.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    for ending in ("-wal", "-shm", ""):
        part = path.with_name(path.name + ending)
        if part.exists():
            os.replace(part, f"{kept}{ending}")
    return kept
