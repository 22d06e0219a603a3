"""The TLS listeners' certificate while the broker runs: put in place before it starts, renewed without a restart."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from soundbox_server.broker.certificates import (
    RENEW_BEFORE,
    CertificateProblem,
    Pair,
    authority_pem,
    is_for,
    is_signed_by,
    issue,
    read_pair,
    served_pair,
)
from soundbox_server.broker.engine import BrokerStartError, Engine
from soundbox_server.broker.health import HealthBoard
from soundbox_server.broker.mosquitto import BrokerFiles, TlsListener, files_in, write_atomically
from soundbox_server.clock import now_ms

log: FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class TlsSetup:
    """What the TLS listeners are to be. Without `certificate` and `key` a certificate authority of our own signs for
    `names`, the hosts and addresses that boxes are sent to. `provision_port` 0: no second broker."""

    listener: TlsListener
    names: Sequence[str]
    provision_port: int = 0
    certificate: Path | None = None
    key: Path | None = None


class ServedCertificate:
    """The one writer of the file the listeners read."""

    def __init__(self, files: BrokerFiles, setup: TlsSetup, *, board: HealthBoard) -> None:
        self._files = files
        self._setup = setup
        self._board = board
        self._told: str | None = None
        self._ends_at = _now()

    def put_first(self) -> None:
        """What the broker starts with. Raises BrokerStartError: without a certificate there is no listener."""
        try:
            self._put()
        except CertificateProblem as problem:
            raise BrokerStartError(f"the TLS listener has no certificate: {problem}") from problem

    async def follow(self, engines: Sequence[Engine], *, every_s: float) -> None:
        """Serve what is put in place of the old files, and renew our own in time."""
        while True:
            await asyncio.sleep(every_s)
            try:
                changed = await asyncio.to_thread(self._put)
            except CertificateProblem as problem:
                self._complain(str(problem))
                continue
            self._told = None
            if changed:
                log.info("broker_certificate_changed", ends_at=f"{self._ends_at:%Y-%m-%d}")
                for engine in engines:
                    await engine.reload()

    def _put(self) -> bool:
        """True when the file has changed."""
        now, served = _now(), served_pair(self._files.served)
        wanted = self._wanted(served, now)
        changed = served is None or served.pem != wanted.pem
        if changed:
            write_atomically(self._files.served, wanted.pem)
        self._ends_at = wanted.ends_at
        self._board.note(tls_port=self._setup.listener.port, certificate_ends_ms=int(wanted.ends_at.timestamp() * 1000))
        return changed

    def _wanted(self, served: Pair | None, now: datetime) -> Pair:
        setup = self._setup
        if setup.certificate is not None and setup.key is not None:
            return read_pair(setup.certificate, setup.key, now=now)
        if served is not None and self._is_ours(served, now) and not served.ends_within(RENEW_BEFORE, now=now):
            return served
        return issue(self._files.tls, names=setup.names, now=now)

    def _is_ours(self, served: Pair, now: datetime) -> bool:
        return is_for(served.certificate, self._setup.names) and is_signed_by(
            served.certificate, authority_pem(self._files.tls, now=now)
        )

    def _complain(self, problem: str) -> None:
        """Once for each problem: what is served goes on being served."""
        if problem != self._told:
            log.error("broker_certificate_refused", problem=problem)
            self._board.note_error(f"the old certificate stays: {problem}")
        self._told = problem


def development_authority(home: Path) -> str:
    """The certificate (PEM) that boxes of this copy have to trust when no operator gave it another."""
    return authority_pem(files_in(home).tls, now=_now())


def to_ourselves() -> ssl.SSLContext:
    """For asking a broker on this machine that is our own child: its name and chain are for boxes to check."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _now() -> datetime:
    return datetime.fromtimestamp(now_ms() / 1000, UTC)
