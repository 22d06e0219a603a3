"""What is served to whoever pays: the picture of the QR at the session's own address, which nobody else knows."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from soundbox_server.checkout.service import find_session
from soundbox_server.checkout.state import SessionState
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.fields import Id
from soundbox_server.http import problems
from soundbox_server.payments.pictures import USUAL_PX
from soundbox_server.payments.qr_routes import IfNoneMatch, Size, drawn, show_picture

router = APIRouter(tags=["checkout"])


@router.get(
    "/pay/{session_id}/qr.png",
    response_class=Response,
    responses=drawn("image/png") | problems(NotFound, Conflict),
)
async def session_picture(
    request: Request, session_id: Id, size: Size = USUAL_PX, if_none_match: IfNoneMatch = None
) -> Response:
    """What the customer scans, for as long as the payment waits for them."""
    session = await request.app.state.database.read(lambda tx: find_session(tx, session_id))
    if session.qr_payload is None or session.state is not SessionState.WAITING:
        raise Conflict("This payment does not wait to be scanned.", status=session.state.value)
    return await show_picture(session.qr_payload, "png", size, if_none_match)
