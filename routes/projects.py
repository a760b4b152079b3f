from fastapi import APIRouter
from sqlalchemy import func, update
from sqlmodel import Session, col, delete, select

from db import require, require_free
from errors import Conflict, Invalid
from fields import MAX_ID, now
from models import (
    NO_PROJECT,
    Conversation,
    Document,
    DocumentReference,
    Done,
    Project,
    ProjectCreate,
    ProjectPublic,
    ProjectUpdate,
)
from routes.deps import DatabaseDep, Force, PathId, errors

router = APIRouter(prefix="/v1/projects", tags=["projects"])


@router.get("", response_model=list[ProjectPublic])
async def list_projects(db: DatabaseDep) -> object:
    """Every project, by id."""
    return await db.read(
        lambda session: session.exec(select(Project).order_by(col(Project.id))).all()
    )


@router.post("", response_model=ProjectPublic, responses=errors(409))
async def create_project(body: ProjectCreate, db: DatabaseDep) -> object:
    """Create a project; its name must be free."""
    return await db.write(_create, body)


@router.get("/{project_id}", response_model=ProjectPublic, responses=errors(404))
async def get_project(project_id: PathId, db: DatabaseDep) -> object:
    return await db.read(require, Project, project_id)


@router.put("/{project_id}", response_model=ProjectPublic, responses=errors(404, 409))
async def update_project(project_id: PathId, body: ProjectUpdate, db: DatabaseDep) -> object:
    """Change the fields that are sent; null clears one, the name excepted."""
    return await db.write(_update, project_id, body)


@router.delete("/{project_id}", responses=errors(404, 409))
async def delete_project(project_id: PathId, db: DatabaseDep, force: Force = None) -> Done:
    """Delete a project: its conversations move to 其它, its documents go with it.

    Refused while it has documents, unless `force` is true.
    """
    await db.write(_delete, project_id, bool(force))
    return Done(message="Project deleted successfully")


def _create(session: Session, body: ProjectCreate) -> Project:
    _require_free(session, body.name)
    project = Project(id=_free_id(session), **body.model_dump())
    session.add(project)
    session.flush()
    return project


def _update(session: Session, project_id: int, body: ProjectUpdate) -> Project:
    project = require(session, Project, project_id)
    if "name" in body.changes() and body.name != project.name:
        _require_free(session, body.name)
    project.sqlmodel_update(body.changes())
    project.updated_time = now()
    return project


def _delete(session: Session, project_id: int, force: bool) -> None:
    project = require(session, Project, project_id)
    owned = col(Document.project_id) == project_id
    count = session.exec(select(func.count()).select_from(Document).where(owned)).one()
    if count and not force:
        raise Conflict(
            f"The project has {count} documents that would go with it: add ?force=true to delete"
        )
    session.exec(delete(Document).where(owned))
    theirs = col(DocumentReference.project_id) == project_id
    session.exec(delete(DocumentReference).where(theirs))
    moved = update(Conversation).where(col(Conversation.project_id) == project_id)
    session.exec(moved.values(project_id=0))
    session.delete(project)


def _require_free(session: Session, name: str) -> None:
    if name == NO_PROJECT:
        raise Invalid(f"{NO_PROJECT} is the group without a project", field="name")
    require_free(session, Project, name)


def _free_id(session: Session) -> int:
    """One above the largest id that has room above it.

    SQLite's own numbering has none left once somebody has named the largest number there is.
    """
    taken = select(Project.id)
    above = col(Project.id) + 1
    room = select(above).where(col(Project.id) < MAX_ID, above.not_in(taken))
    return session.exec(room.order_by(above.desc())).first() or 1
