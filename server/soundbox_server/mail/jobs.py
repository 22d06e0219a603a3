"""Sending what is due, and saying it when a mail will never arrive."""

import asyncio

import structlog

from soundbox_server import clock, metrics
from soundbox_server.db import Database, Row
from soundbox_server.mail.service import TRANSPORT, written
from soundbox_server.mail.sinks import Sink, is_final
from soundbox_server.outbox import letters
from soundbox_server.seal import Ring

log = structlog.get_logger()

RETRY_AFTER_S = (30, 120, 600, 1_800, 7_200, 21_600)
AT_ONCE = 20


class Postman:
    """Sends mail through a sink. Several may work at the same outbox: each letter is claimed by one."""

    def __init__(self, database: Database, sink: Sink, *, ring: Ring, sender: str, owner: str) -> None:
        self._database = database
        self._sink = sink
        self._ring = ring
        self._sender = sender
        self._owner = owner

    async def tick(self) -> None:
        """Send what is due, one after the other: a mail server likes that better than many connections."""
        claimed = await self._database.write(
            lambda tx: letters.claim(tx, TRANSPORT, now_ms=clock.now_ms(), owner=self._owner, limit=AT_ONCE)
        )
        for row in claimed:
            await self._send(row)

    async def _send(self, row: Row) -> None:
        mail_id, attempt = row["id"], row["attempt"]
        try:
            message = written(mail_id, to=row["address"], body=row["body"], sender=self._sender, ring=self._ring)
            await asyncio.to_thread(self._sink, message, mail_id)
        except Exception as error:  # whatever it is, the letter is due again or dead, and says why
            await self._not_sent(row, error)
        else:
            await self._database.write(lambda tx: letters.sent(tx, mail_id, attempt=attempt, now_ms=clock.now_ms()))
            metrics.mails.labels("sent").inc()
            log.info("mail.sent", mail_id=mail_id, kind=row["kind"])

    async def _not_sent(self, row: Row, error: Exception) -> None:
        delays = () if is_final(error) else RETRY_AFTER_S
        reason = type(error).__name__  # the text may quote the address
        again = await self._database.write(
            lambda tx: letters.failed(
                tx, row["id"], attempt=row["attempt"], reason=reason, now_ms=clock.now_ms(), retry_after_s=delays
            )
        )
        metrics.mails.labels("put_off" if again else "dead").inc()
        say = log.warning if again else log.error
        say("mail.not_sent", mail_id=row["id"], kind=row["kind"], reason=reason, attempt=row["attempt"], again=again)
