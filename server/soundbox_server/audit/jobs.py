"""Linking the audit log each second."""

import structlog

from soundbox_server.audit import chain
from soundbox_server.db import Database

log = structlog.get_logger()


async def link_entries(database: Database) -> None:
    """Link all that waits. The logged head is the anchor outside the database that an auditor compares with."""
    while head := await database.write(chain.link):
        log.info("audit.linked", position=head.position, head=head.hash)
