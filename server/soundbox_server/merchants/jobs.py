"""What happens to merchants by the clock."""

import structlog

from soundbox_server import clock
from soundbox_server.audit.service import SYSTEM, record
from soundbox_server.db import Database, Statements
from soundbox_server.merchants import accounts

log = structlog.get_logger()


async def apply_account_changes(database: Database) -> None:
    """Settlement accounts whose day of hold is over take effect."""

    async def work(tx: Statements) -> list[tuple[str, str]]:
        applied = await accounts.apply_due(tx, now_ms=clock.now_ms())
        for merchant_id, change_id in applied:
            await record(
                tx, SYSTEM, "merchant.account_changed", ("merchant", merchant_id), details={"change_id": change_id}
            )
        return applied

    while applied := await database.write(work):
        log.info("merchants.accounts_changed", count=len(applied))
