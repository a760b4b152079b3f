from typing import Any

from fastapi import APIRouter

from errors import NotFound
from models import ListedModel, ModelList
from routes.deps import CatalogueDep, KeyDep, openai_errors

router = APIRouter(prefix="/v1/models", tags=["OpenAI"])


@router.get("", response_model=ModelList, responses=openai_errors())
async def list_models(catalogue: CatalogueDep, key: KeyDep) -> Any:
    """Every model that can be asked, under the name to ask it by."""
    models = await catalogue.models(key)
    return {"object": "list", "data": models}


@router.get("/{model:path}", response_model=ListedModel, responses=openai_errors())
async def get_model(model: str, catalogue: CatalogueDep, key: KeyDep) -> Any:
    """One model; the case of its name does not matter."""
    listed = await catalogue.models(key)
    for known in listed:
        if known["id"].casefold() == model.casefold():
            return known
    raise NotFound("Model")
