"""Where a merchant's own people and programs sell, when they do not stand at a box: a till of their organisation."""

from dataclasses import dataclass

from soundbox_server.db import Row, Statements
from soundbox_server.errors import Conflict, NotFound


@dataclass(frozen=True, kw_only=True)
class Till:
    merchant_id: str
    outlet_id: str
    terminal_id: str


_TILLS = """
SELECT t.id, t.outlet_id, t.merchant_id, t.is_default FROM terminal t JOIN merchant m ON m.id = t.merchant_id
WHERE m.organisation_id = $1 AND m.erased_at_ms IS NULL
"""


async def till_of(tx: Statements, organisation_id: str, *, terminal_id: str | None = None) -> Till:
    """The terminal of this id, or the default one of the organisation's only merchant.

    Raises NotFound for a terminal of somebody else and for an organisation without a merchant, Conflict where several
    merchants have a default terminal: which of them sells must be said.
    """
    if terminal_id is not None:
        found = await tx.fetch(_TILLS + "AND t.id = $2", organisation_id, terminal_id)
        if not found:
            raise NotFound("No such terminal.", terminal_id=terminal_id)
        return _till(found[0])
    found = await tx.fetch(_TILLS + "AND t.is_default ORDER BY t.id LIMIT 2", organisation_id)
    if not found:
        raise NotFound("This organisation has no merchant with a terminal.", organisation_id=organisation_id)
    if len(found) > 1:
        raise Conflict("This organisation has several merchants: say at which terminal_id.", field="terminal_id")
    return _till(found[0])


def _till(row: Row) -> Till:
    return Till(merchant_id=row["merchant_id"], outlet_id=row["outlet_id"], terminal_id=row["id"])
