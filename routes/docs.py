from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

import manual

router = APIRouter(include_in_schema=False)

# The page has no scripts, so none may run in it; and nobody may put it into a frame.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


@router.get("/docs", response_class=HTMLResponse)
async def read_docs(request: Request) -> HTMLResponse:
    page = manual.page(request.app.openapi())
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})
