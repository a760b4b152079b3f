from typing import Annotated

from fastapi import APIRouter, Query

import points
import usage
from models import Balance, GroupBy, Reconciled, UsageReport
from routes.deps import Absent, DatabaseDep, From, KeyDep, ProvidersDep, To, errors

router = APIRouter(prefix="/v1/usage", tags=["usage"])

By = Annotated[GroupBy | None, Absent, Query(description="day unless told")]
POE = errors(401, 402, 403, 429, 502, 503, 504)


@router.get("", response_model_exclude_unset=True, responses=errors())
async def get_usage(
    db: DatabaseDep, group_by: By = None, since: From = None, until: To = None
) -> UsageReport:
    """Turns, tokens and cost, by day (the newest first) or by another group (the dearest first).

    `from` and `to` may be days: that of `from` counts, that of `to` does not. Where a provider told
    no tokens, those of the reply are guessed from its text, and `estimated_…` says so. Points are
    those that were matched to a turn; `unmatched_points` are the others.
    """
    return await db.read(usage.report, group_by or "day", since, until)


@router.get("/balance", responses=POE)
async def get_balance(providers: ProvidersDep, key: KeyDep) -> Balance:
    """The points that are left, as Poe tells it now."""
    return Balance(current_point_balance=await points.balance(providers, key))


@router.post("/reconcile", responses=POE)
async def reconcile_usage(db: DatabaseDep, providers: ProvidersDep, key: KeyDep) -> Reconciled:
    """Ask Poe what calls have cost, and give each price to its turn where there is but one.

    The service does so by itself, a few minutes after turns on Poe, where it has a key of its own.
    """
    return await points.reconcile(db, providers, key)
