"""The page where a password is chosen: `/portal/set-password` and its like, where the links of mails lead.

The link's token is its fragment, which browsers keep to themselves. The page posts it beside the password to a door of
the account, so it cannot do without JavaScript; the server shows everybody the same, and knows nobody here.
"""

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from soundbox_server.access.passwords import LONGEST, SHORTEST
from soundbox_server.pages.paper import asked_language, for_people, page

# Below which the doors of an account lie, by where a mail leads (access/mails.py). Partners share the portal.
DOORS: Mapping[str, str] = {"/console": "/admin", "/portal": "/merchant", "/bank": "/lending"}


async def _show(request: Request) -> Response:
    place = request.url.path.removesuffix("/set-password")
    return page(
        "password.html", asked_language(request), place=place, door=DOORS[place], shortest=SHORTEST, longest=LONGEST
    )


ROUTES: Sequence[BaseRoute] = [Route(f"{place}/set-password", for_people(_show), methods=["GET"]) for place in DOORS]
