"""What the worker does about commands on its own."""

from soundbox_server import clock
from soundbox_server.commands import service
from soundbox_server.db import Database


async def follow_commands(database: Database) -> None:
    """Note what was sent, and end what nobody answers."""
    await database.write(lambda tx: service.follow_up(tx, now_ms=clock.now_ms()))
