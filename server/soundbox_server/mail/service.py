"""Mail: written in the transaction of what it tells of, sealed until it leaves."""

import email.policy
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

import orjson

from soundbox_server.db import Statements
from soundbox_server.ids import new_id
from soundbox_server.outbox import letters
from soundbox_server.outbox.service import Message
from soundbox_server.outbox.state import Delivery
from soundbox_server.seal import Ring, seal, unseal

TRANSPORT = "mail"
KEPT_MS = 30 * 24 * 3_600_000  # as webhooks' deliveries
FORGET_LIMIT = 1_000


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One mail to one person. `kind` is for those who look at the outbox: it says no more than the subject."""

    kind: str
    person_id: str
    to: str
    subject: str
    text: str


async def queue_mail(
    tx: Statements, mail: Mail, *, ring: Ring, owner: str, trace_id: str, now_ms: int, expires_at_ms: int | None = None
) -> str:
    """Put a mail into the outbox; returns its id. It may hold a one-time token, so what it says is stored sealed."""
    mail_id = new_id("mail")
    said = orjson.dumps({"subject": mail.subject, "text": mail.text})
    letter = Message(
        id=mail_id,
        transport=TRANSPORT,
        kind=mail.kind,
        recipient_id=mail.person_id,
        address=mail.to,
        body=seal(ring, mail_id, said).encode(),
        created_at_ms=now_ms,
        expires_at_ms=expires_at_ms,
        trace_id=trace_id,
        state=Delivery.QUEUED,
    )
    await letters.queue(tx, letter, owner=owner)
    return mail_id


async def forget(tx: Statements, *, now_ms: int) -> int:
    """Mails that were sent, or given up, thirty days ago go; returns how many went, at most a thousand at a time."""
    rows = await tx.fetch(
        "DELETE FROM outbox_message WHERE id IN (SELECT id FROM outbox_message WHERE transport = 'mail' "
        "AND finished_at_ms <= $1 ORDER BY id LIMIT $2) RETURNING id",
        now_ms - KEPT_MS,
        FORGET_LIMIT,
    )
    return len(rows)


def written(mail_id: str, *, to: str, body: bytes, sender: str, ring: Ring) -> EmailMessage:
    """The mail as it is sent. Raises CannotUnseal. Its Message-ID stays the same: who gets it twice sees it once."""
    said = orjson.loads(unseal(ring, mail_id, body.decode()))
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = said["subject"]
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{mail_id}@{sender_domain(sender)}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(said["text"])
    return message


def sender_domain(sender: str) -> str:
    """The domain of `Name <user@domain>` or `user@domain`."""
    return sender.rpartition("@")[2].rstrip("> ")
