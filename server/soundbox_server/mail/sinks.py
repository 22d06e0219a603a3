"""Where mail goes: a folder, or an SMTP server. Both are called in a thread and raise what went wrong."""

import os
import smtplib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Literal

SMTP_TIMEOUT_S = 30
Security = Literal["starttls", "tls", "none"]
Sink = Callable[[EmailMessage, str], None]


@dataclass(frozen=True)
class FileSink:
    """Each mail a file in this folder, for development. Only its owner may read them: they hold tokens."""

    folder: Path

    def __call__(self, message: EmailMessage, mail_id: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self.folder / f".{mail_id}"
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(message.as_bytes())
        unfinished.rename(self.folder / f"{mail_id}.eml")


@dataclass(frozen=True, kw_only=True)
class SmtpSink:
    """An SMTP server. A certificate that does not fit its name is refused; `cafile` names an authority of one's own."""

    host: str
    port: int
    security: Security = "starttls"
    user: str = ""
    password: str = ""
    cafile: str | None = None

    def __call__(self, message: EmailMessage, mail_id: str) -> None:
        with self._connected() as server:
            if self.user:
                server.login(self.user, self.password)
            server.send_message(message)

    def _connected(self) -> smtplib.SMTP:
        if self.security == "none":
            return smtplib.SMTP(self.host, self.port, timeout=SMTP_TIMEOUT_S)
        trust = ssl.create_default_context(cafile=self.cafile)
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=SMTP_TIMEOUT_S, context=trust)
        server = smtplib.SMTP(self.host, self.port, timeout=SMTP_TIMEOUT_S)
        try:
            server.starttls(context=trust)
        except BaseException:
            server.close()
            raise
        return server


def is_final(error: Exception) -> bool:
    """Whether the server will say the same again: it refused this mail for good (5xx)."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    refused = isinstance(error, smtplib.SMTPSenderRefused | smtplib.SMTPDataError)
    return refused and getattr(error, "smtp_code", 0) >= 500
