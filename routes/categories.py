from fastapi import APIRouter
from sqlalchemy import func
from sqlmodel import Session, col, delete, select

from db import require, require_free
from errors import Conflict
from fields import now
from models import Category, CategoryCreate, CategoryPublic, CategoryUpdate, Document, Done, Draft
from routes.deps import DatabaseDep, Force, PathId, errors

router = APIRouter(prefix="/v1/plan/categories", tags=["plan categories"])


@router.get("", response_model=list[CategoryPublic])
async def list_categories(db: DatabaseDep) -> object:
    """Every category, by id; the first five are built in."""
    return await db.read(
        lambda session: session.exec(select(Category).order_by(col(Category.id))).all()
    )


@router.post("", response_model=CategoryPublic, responses=errors(404, 409))
async def create_category(body: CategoryCreate, db: DatabaseDep) -> object:
    """Create a category; its name must be free."""
    return await db.write(_create, body)


@router.get("/{category_id}", response_model=CategoryPublic, responses=errors(404))
async def get_category(category_id: PathId, db: DatabaseDep) -> object:
    return await db.read(require, Category, category_id)


@router.put("/{category_id}", response_model=CategoryPublic, responses=errors(404, 409))
async def update_category(category_id: PathId, body: CategoryUpdate, db: DatabaseDep) -> object:
    """Change the fields that are sent, of a built-in category too."""
    return await db.write(_update, category_id, body)


@router.delete("/{category_id}", responses=errors(404, 409))
async def delete_category(category_id: PathId, db: DatabaseDep, force: Force = None) -> Done:
    """Delete a category that is not built in.

    Refused while it has documents, unless `force` is true: then they go with it.
    """
    await db.write(_delete, category_id, bool(force))
    return Done(message="Category deleted successfully")


def _create(session: Session, body: CategoryCreate) -> Category:
    require_free(session, Category, body.name)
    _check_target(session, body.auto_save_category_id, None)
    category = Category(**body.model_dump())
    session.add(category)
    session.flush()
    return category


def _update(session: Session, category_id: int, body: CategoryUpdate) -> Category:
    category = require(session, Category, category_id)
    changes = body.changes()
    if "name" in changes and body.name != category.name:
        require_free(session, Category, body.name)
    _check_target(session, changes.get("auto_save_category_id"), category_id)
    category.sqlmodel_update(changes)
    category.updated_time = now()
    return category


def _delete(session: Session, category_id: int, force: bool) -> None:
    category = require(session, Category, category_id)
    if category.is_builtin:
        raise Conflict("A built-in category can be edited, not deleted")
    drafts = col(Draft.category_id) == category_id
    unfinished = session.exec(
        select(Draft.status).where(drafts, col(Draft.document_id).is_(None))
    ).all()
    if "streaming" in unfinished:
        raise Conflict("A document of this category is being written: stop it or wait for its end")
    owned = col(Document.category_id) == category_id
    count = session.exec(select(func.count()).select_from(Document).where(owned)).one()
    if (count or unfinished) and not force:
        raise Conflict(
            f"The category has {count} documents and {len(unfinished)} drafts that would go with"
            " it: add ?force=true to delete"
        )
    session.exec(delete(Draft).where(drafts))
    session.exec(delete(Document).where(owned))
    session.delete(category)


def _check_target(session: Session, target_id: int | None, own_id: int | None) -> None:
    if target_id is None:
        return
    if target_id == own_id:
        raise Conflict("auto_save_category_id must name another category")
    require(session, Category, target_id)
