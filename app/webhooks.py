"""Deliveries of jobs' ends to callback URLs: listed, replayed; the secret that signs them."""

import re
import time
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.access import Admin, Reader, Unlearner
from app.jobs import Cursor, read_cursor, write_cursor
from app.openapi import said
from app.problems import Problem
from app.schemas import (
    DeliveryLinks,
    DeliveryPage,
    DeliveryView,
    Rotation,
    SecretView,
)
from app.services import Use
from app.views import rfc3339
from core.webhooks import BeingSent, Delivery, State

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@router.get("/deliveries")
def list_deliveries(
    use: Use,
    caller: Reader,
    status: State | None = None,
    job: Annotated[str | None, Query(max_length=36, pattern=r"^[0-9a-f-]*$")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor | None = None,
) -> DeliveryPage:
    """List deliveries, newest first; they go when their job is purged."""
    before = read_cursor(cursor) if cursor is not None else None
    found = use.outbox.page(caller.tenant, limit + 1, before, status, job)
    more = len(found) > limit
    return DeliveryPage(
        items=[_view(delivery) for delivery in found[:limit]],
        next=write_cursor(found[limit - 1].seq) if more else None,
    )


@router.post(
    "/deliveries/{delivery_id}/replay",
    responses={
        404: said("There is no such delivery of this tenant"),
        409: said("It is being sent at this moment", "Retry-After"),
    },
)
def replay_delivery(delivery_id: str, use: Use, caller: Unlearner) -> DeliveryView:
    """Send an event again, whatever became of it: under its old id, with all attempts anew."""
    try:
        known = _ID.fullmatch(delivery_id)
        delivery = use.outbox.replay(delivery_id, caller.tenant) if known else None
    except BeingSent:
        detail = "the delivery is being sent at this moment; look what becomes of it first"
        raise Problem(409, "being-sent", detail, headers={"Retry-After": "10"}) from None
    if delivery is None:
        detail = "there is no delivery of this id; GET /webhooks/deliveries lists them"
        raise Problem(404, "no-such-delivery", detail)
    return _view(delivery)


@router.post("/secret")
def rotate_secret(
    use: Use, caller: Admin, response: Response, body: Rotation | None = None
) -> SecretView:
    """Make a new signing secret; the answer shows it this once.

    Until the overlap ends, events carry a signature by each secret, so that receivers can
    change over one by one.
    """
    overlap = (body or Rotation()).overlap_seconds
    made = use.secrets.rotate(caller.tenant, overlap)
    response.headers["Cache-Control"] = "no-store"
    return SecretView(secret=made, overlap_ends_at=rfc3339(time.time() + overlap))


def _view(delivery: Delivery) -> DeliveryView:
    sending = delivery.state is State.SENDING
    due = None if sending else delivery.due_at
    return DeliveryView(
        id=delivery.id,
        event=delivery.event,
        job=delivery.job,
        callback_url=delivery.url,
        status=delivery.state,
        created_at=rfc3339(delivery.created_at),
        attempts=delivery.attempts,
        last_attempt_at=rfc3339(delivery.tried_at) if delivery.tried_at else None,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        next_attempt_at=rfc3339(due) if due else None,
        links=DeliveryLinks(
            job=f"/jobs/{delivery.job}",
            replay=None if sending else f"/webhooks/deliveries/{delivery.id}/replay",
        ),
    )
