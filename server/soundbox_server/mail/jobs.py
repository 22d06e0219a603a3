"""Sending what is due, and saying it when a mail will never arrive."""

import asyncio
from email.message import EmailMessage

import structlog

from soundbox_server import clock, metrics
from soundbox_server.db import Database, Row
from soundbox_server.mail.service import FORGET_LIMIT, TRANSPORT, forget, written
from soundbox_server.mail.sinks import Sink, is_final
from soundbox_server.outbox import letters
from soundbox_server.seal import Ring

log = structlog.get_logger()

RETRY_AFTER_S = (30, 120, 600, 1_800, 7_200, 21_600)
MOST_A_TICK = 20
HOLD_EVERY_S = letters.LEASE_MS / 4_000


class Postman:
    """Sends mail through a sink. Several may work at the same outbox: each letter is claimed by one."""

    def __init__(
        self,
        database: Database,
        sink: Sink,
        *,
        ring: Ring,
        sender: str,
        owner: str,
        hold_every_s: float = HOLD_EVERY_S,
    ) -> None:
        self._database = database
        self._sink = sink
        self._ring = ring
        self._sender = sender
        self._owner = owner
        self._hold_every_s = hold_every_s

    async def tick(self) -> None:
        """Send what is due, one after the other: a mail server likes that better than many connections.

        Each is claimed when its turn comes: one that waited behind slow ones would outlive its lease, and be sent by
        somebody else too.
        """
        for _ in range(MOST_A_TICK):
            claimed = await self._database.write(
                lambda tx: letters.claim(tx, TRANSPORT, now_ms=clock.now_ms(), owner=self._owner, limit=1)
            )
            if not claimed:
                return
            await self._send(claimed[0])

    async def forget(self) -> None:
        """Forget what nobody will ask about."""
        while await self._database.write(lambda tx: forget(tx, now_ms=clock.now_ms())) == FORGET_LIMIT:
            pass

    async def _send(self, row: Row) -> None:
        mail_id, attempt = row["id"], row["attempt"]
        try:
            message = written(mail_id, to=row["address"], body=row["body"], sender=self._sender, ring=self._ring)
            await self._hand_over(message, mail_id, attempt)
        except Exception as error:  # whatever it is, the letter is due again or dead, and says why
            await self._not_sent(row, error)
        else:
            await self._database.write(lambda tx: letters.sent(tx, mail_id, attempt=attempt, now_ms=clock.now_ms()))
            metrics.mails.labels("sent").inc()
            log.info("mail.sent", mail_id=mail_id, kind=row["kind"])

    async def _hand_over(self, message: EmailMessage, mail_id: str, attempt: int) -> None:
        """To the sink. A server may take its time at every step of a session, so the lease is held meanwhile."""
        sending = asyncio.ensure_future(asyncio.to_thread(self._sink, message, mail_id))
        while not (await asyncio.wait({sending}, timeout=self._hold_every_s))[0]:
            await self._database.write(lambda tx: letters.hold(tx, mail_id, attempt=attempt, now_ms=clock.now_ms()))
        await sending

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
