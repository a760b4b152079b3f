from fastapi import APIRouter, Request

from models import Health
from routes.deps import ProvidersDep

router = APIRouter(tags=["health"])


@router.get("/health")
async def health(request: Request, providers: ProvidersDep) -> Health:
    """Whether the service is up, and for which providers it has a key of its own."""
    return Health(status="ok", version=request.app.version, providers=providers.configured())
