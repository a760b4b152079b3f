import asyncio

from fastapi import APIRouter

import backup
from errors import StorageError
from fields import now
from routes.deps import DatabaseDep, TemporaryFileResponse, discard, errors, temporary_file

router = APIRouter(prefix="/v1/backup", tags=["keeping"])


@router.get("", response_class=TemporaryFileResponse, responses=errors(503))
async def download_backup(db: DatabaseDep) -> TemporaryFileResponse:
    """A consistent copy of the database file, taken while it is in use and checked."""
    path = temporary_file(".db")
    try:
        await asyncio.to_thread(backup.copy, db.path, path)
    except backup.BackupError as error:
        discard(path)
        raise StorageError(str(error)) from error
    except BaseException:
        discard(path)
        raise
    name = f"{db.path.stem}-{now()[:10]}.db"
    return TemporaryFileResponse(path, media_type="application/vnd.sqlite3", filename=name)
