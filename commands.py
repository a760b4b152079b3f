"""`python main.py export|import|backup|restore FILE`: what can be done without the service."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import backup
import interchange
from backup import BackupError
from db import Database, StartError
from errors import ServiceError
from imports import intake
from models import Imported
from settings import Settings


class Progress:
    """How far it is, on a terminal; nothing where nobody looks."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._shown = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if self._shown:
            percent = min(100, done * 100 // max(total, 1))
            print(f"\r{self._doing}: {percent:3} %", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print(file=sys.stderr)


def run(settings: Settings, arguments: list[str]) -> None:
    """Do what the command line says; leaves with one sentence where it cannot."""
    parser = argparse.ArgumentParser(prog="main.py", description="Without a command: the service.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (work, about) in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("file", type=Path)
        command.set_defaults(work=work)
    asked = parser.parse_args(arguments)
    try:
        print(asked.work(settings.database_path, asked.file))
    except (StartError, BackupError) as error:
        sys.exit(str(error))
    except ServiceError as error:
        sys.exit(error.detail)
    except OSError as error:
        sys.exit(f"{error.filename or asked.file}: {error.strerror}")


def export_file(path: Path, file: Path) -> str:
    """Beside a running service too: it only reads."""
    handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with open(handle, "w", encoding="utf-8") as target:
            asyncio.run(_export(path, target))
    except BaseException:
        file.unlink()
        raise
    return f"Everything is in {file}"


def import_file(path: Path, file: Path) -> str:
    """Into a database that no service is running on."""
    with open(file, "rb") as source:
        result = asyncio.run(_import(path, source))
    for skipped in result.skipped:
        print(f"Skipped {skipped.kind} {skipped.id}: {skipped.reason}", file=sys.stderr)
    told = (
        ("added", result.added),
        ("there already", result.existing),
        ("left out", result.left_out),
    )
    lines = [f"{title}: {counts}" for title, found in told if (counts := _listed(found))]
    return "\n".join([*lines, f"skipped: {result.skipped_count}"])


def backup_file(path: Path, file: Path) -> str:
    progress = Progress("Copying")
    backup.copy(path, file, progress)
    progress.end()
    return f"A checked copy is in {file}"


def restore_file(path: Path, file: Path) -> str:
    progress = Progress("Copying")
    kept = backup.restore(path, file, progress)
    progress.end()
    return f"{path} is restored" + (f"; what was there is kept in {kept}" if kept else "")


COMMANDS: dict[str, tuple[Callable[[Path, Path], str], str]] = {
    "export": (export_file, "Write everything into FILE as JSON; the service may be running."),
    "import": (
        import_file,
        "Take an export of this program, ChatGPT, Claude, Open WebUI or LibreChat; "
        "the service must not be running.",
    ),
    "backup": (backup_file, "Copy the database to FILE; the service may be running."),
    "restore": (restore_file, "Put a backup in the database's place; the service must not run."),
}


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


async def _export(path: Path, target: IO[str]) -> None:
    progress = Progress("Exporting")
    db = Database(path)
    db.open_to_read()
    try:
        done, total = 0, await db.read(interchange.count)
        async for piece in interchange.export(db):
            target.write(piece)
            done += 1
            progress(done, total)
    finally:
        progress.end()
        await db.close()


async def _import(path: Path, source: IO[bytes]) -> Imported:
    progress = Progress("Importing")
    db = Database(path)
    db.open()
    try:
        return await intake.take(db, source, progress)
    finally:
        progress.end()
        await db.close()
