"""The worker process: owns a broker shard, takes in what boxes say, and sends again what nobody answered.

Two workers may run for one shard: the second stands by and takes over when the first one's lock ends.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from soundbox_protocol.topics import Uplink as Channel
from soundbox_server import clock, failpoints, guard, health, logs, metrics, parts
from soundbox_server.access.jobs import forget_what_is_over
from soundbox_server.advice.jobs import Adviser
from soundbox_server.announcements import mqtt as announcements
from soundbox_server.announcements.jobs import tell_what_was_missed
from soundbox_server.audit.jobs import link_entries
from soundbox_server.broker import beats, wire
from soundbox_server.broker.consumer import Consumer, Table
from soundbox_server.broker.leases import Lease, try_lease
from soundbox_server.broker.passwords import hash_password
from soundbox_server.broker.publisher import RECONNECT_S, Publisher
from soundbox_server.broker.users import hub_password, shard_user
from soundbox_server.calling_back import callback_desk
from soundbox_server.commands.jobs import follow_batches, follow_commands
from soundbox_server.commands.mqtt import Buttons, on_command_ack
from soundbox_server.db import Database, Statements, will_pass
from soundbox_server.device_config import mqtt as configuration
from soundbox_server.device_config.jobs import keep_configured
from soundbox_server.devices import credentials, makers_mqtt
from soundbox_server.devices import jobs as device_jobs
from soundbox_server.devices import mqtt as devices
from soundbox_server.devices.credential_mqtt import CredentialRequests
from soundbox_server.devices.provision_mqtt import ProvisionDesk
from soundbox_server.devices.service import online_among
from soundbox_server.diagnosis.jobs import Caretaker
from soundbox_server.diagnosis.mqtt import Telemetry
from soundbox_server.exportable import EXPORTABLE
from soundbox_server.exports.jobs import Exporter
from soundbox_server.gateways import open_bank, open_gateways
from soundbox_server.idempotency import purge_keys
from soundbox_server.ids import new_id
from soundbox_server.mail.jobs import Postman
from soundbox_server.merchants.jobs import apply_account_changes
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.mqtt import on_payment_ack
from soundbox_server.partners.jobs import settle_tokens
from soundbox_server.payments.inquiry import Inquiry
from soundbox_server.payments.jobs import Inquirer, Matcher, QrIssuer, Refunder, end_unpaid
from soundbox_server.payments.mqtt import QrRequests
from soundbox_server.payouts.jobs import Payer
from soundbox_server.portal.scope import files_of
from soundbox_server.privacy.jobs import finish_erasures
from soundbox_server.providers.base import PaymentReport
from soundbox_server.providers.registry import asked_for
from soundbox_server.reconciliation.jobs import check_books
from soundbox_server.scoring.jobs import Scorer
from soundbox_server.scoring.state import Model
from soundbox_server.settings import Settings
from soundbox_server.settlements.calendar import read_calendar
from soundbox_server.settlements.jobs import Settler
from soundbox_server.wallets.jobs import Withdrawer
from soundbox_server.webhooks.jobs import Courier

log = structlog.get_logger()

SWEEP_EVERY_S = 0.5
JOBS_EVERY_S = 1.0
FORGET_EVERY_S = 3_600.0
OVERDUE_EVERY_S = 10.0
PRESENCE_EVERY_S = 5.0
CONFIGURE_EVERY_S = 3.0  # it looks at every box in service; one that is configured by itself or born waits for nothing
MATCH_EVERY_S = 5.0
SPEAKERS_EVERY_S = 60.0
RECONCILE_EVERY_S = 60.0
TIDY_EVERY_S = 60.0
SETTLE_EVERY_S = 60.0
STANDBY_EVERY_S = 0.2
COURIER_EVERY_S = 0.5
JUDGE_EVERY_S = 30.0
ADVISE_EVERY_S = 5.0
SWEEP_LIMIT = 200
ANSWERS_MAY_TAKE_S = 16.0  # at a stop: a little longer than a provider's call


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT."""
    logs.configure(process="worker", form=settings.log_format, level=settings.log_level)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    database = Database(settings.database_url)
    try:
        guard.refuse_unsafe(settings)
        await parts.require_migrated(database)
        await guard.refuse_unsafe_database(settings, database)
        _say_doubts(settings)
        await Worker(settings, database).run(stop)
    finally:
        await database.close()


def _say_doubts(settings: Settings) -> None:
    for doubt in guard.doubts(settings) if settings.environment == "production" else ():
        log.warning("production.doubtful", about=doubt.about, what=doubt.what, mend=doubt.mend)


class _QuietServer(uvicorn.Server):
    """A server inside our own process: signals stay ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Worker:
    """One worker: stands by until the shard is its own, then listens, sweeps and does the jobs."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._owner = parts.owner_name("worker")
        self._telling = parts.telling(settings, owner=self._owner)
        self._recorder = parts.recorder(settings, database)
        self._telemetry = Telemetry(self._recorder)
        self._publisher = Publisher(self._recorder.sent)
        self._gateways = open_gateways(settings)
        self._desk = callback_desk(settings, database, owner=self._owner, publish=self._publisher.publish)
        self._issuer = QrIssuer(
            database,
            self._gateways,
            key_of=self._telling.key_of,
            owner=self._owner,
            publish=self._publisher.publish,
            take_report=self._take_report,
        )
        self._refunder = Refunder(database, lambda: self._gateways.accounts)
        self._inquirer = Inquirer(database, Inquiry(database, lambda: self._gateways.accounts, self._desk.take))
        self._matcher = Matcher(
            database,
            telling=self._telling,
            late_report_ms=settings.late_report_s * 1000,
            publish=self._publisher.publish,
        )
        self._bank = open_bank(settings)
        self._payer = Payer(database, lambda: self._bank, is_open=read_calendar(settings.settlement_calendar).is_open)
        self._withdrawer = Withdrawer(
            database, lambda: self._bank, is_open=read_calendar(settings.settlement_calendar).is_open
        )
        self._postman = Postman(
            database,
            parts.mail_sink(settings),
            ring=settings.sealing_ring,
            sender=settings.mail_from,
            owner=self._owner,
        )
        self._provisioning = ProvisionDesk(database, parts.granting(settings), publish=self._publisher.publish)
        self._exporter = Exporter(
            database, EXPORTABLE, theirs=files_of, folder=parts.exports_folder(settings), owner=self._owner
        )
        self._settler = Settler(
            database, read_calendar(settings.settlement_calendar), folder=parts.lock_folder(settings)
        )
        self._courier = Courier(database, parts.webhook_sender(settings), ring=settings.sealing_ring, owner=self._owner)
        self._caretaker = Caretaker(
            database,
            days=parts.days(settings),
            speakers=parts.patience(settings),
            logs_folder=parts.device_logs_folder(settings),
            lock_folder=parts.lock_folder(settings),
        )
        self._scorer = Scorer(
            database=database,
            model=Model(settings.scoring_model),
            thresholds=parts.warning_thresholds(settings),
            desk=parts.mail_desk(settings, owner=self._owner),
            hearing=parts.warning_hearing(settings),
        )
        endpoint = parts.advice_endpoint(settings)
        self._adviser = None if endpoint is None else Adviser(
            database=database,
            endpoint=endpoint,
            scoring_model=Model(settings.scoring_model),
            calls_a_day=settings.ai_calls_a_day,
        )  # fmt: skip
        self._consumer = Consumer(
            database, self._table(), committed=self._committed, aside=self._provisioning.aside,
            foreign=makers_mqtt.UPLINKS if settings.broker_legacy_port else None, heard=self._recorder.heard,
        )  # fmt: skip
        self._sweep_now = asyncio.Event()
        self._issue_now = asyncio.Event()
        self._owns_shard = False

    async def run(self, stop: asyncio.Event) -> None:
        server = self._status_server()
        await self._gateways.refresh(self._database, self._settings.sealing_ring)
        fresh = asyncio.create_task(self._gateways.keep_fresh(self._database, self._settings.sealing_ring))
        status = asyncio.create_task(server.serve())
        recording = asyncio.create_task(self._recorder.run())
        working = asyncio.create_task(self._work())
        stopping = asyncio.create_task(stop.wait())
        parts.settle_memory()
        log.info("worker.ready", shard=self._settings.broker_shard)
        try:
            await asyncio.wait([stopping, working, status], return_when=asyncio.FIRST_COMPLETED)
            for task in (working, status):
                if task.done():
                    task.result()  # raises what ended it: the supervisor starts us again
        finally:
            await parts.cancel([working, stopping, fresh, recording])
            await self._desk.drain()
            await self._recorder.write()
            server.should_exit = True
            await asyncio.wait([status])
            await self._gateways.aclose()
            if self._bank is not None:
                await self._bank.aclose()
            log.info("worker.stopped")

    async def _work(self) -> None:
        while True:
            lease = await self._own_the_shard()
            self._issuer.take_over()
            lost, listening = asyncio.create_task(lease.lost.wait()), asyncio.create_task(self._listen())
            jobs = [
                asyncio.create_task(work)
                for work in (
                    self._provisioning.run(),
                    self._repeat(self._sweep, SWEEP_EVERY_S, self._sweep_now),
                    self._repeat(self._issuer.tick, JOBS_EVERY_S, self._issue_now),
                    self._repeat(self._jobs, JOBS_EVERY_S),
                    self._repeat(self._refunder.tick, JOBS_EVERY_S),
                    self._repeat(self._inquirer.tick, JOBS_EVERY_S),
                    self._repeat(self._payer.tick, JOBS_EVERY_S),
                    self._repeat(self._withdrawer.tick, JOBS_EVERY_S),
                    self._repeat(self._matcher.tick, MATCH_EVERY_S),
                    self._repeat(self._exporter.tick, JOBS_EVERY_S),
                    self._repeat(self._tidy, TIDY_EVERY_S),
                    self._repeat(self._settler.tick, SETTLE_EVERY_S),
                    self._repeat(self._check_books, TIDY_EVERY_S),
                    self._repeat(self._beat, beats.EVERY_S),
                    self._repeat(self._link_audit_log, JOBS_EVERY_S),
                    self._repeat(self._postman.tick, JOBS_EVERY_S),
                    self._repeat(self._forget, FORGET_EVERY_S),
                    self._repeat(self._caretaker.forget, FORGET_EVERY_S),
                    self._repeat(self._caretaker.watch_speakers, SPEAKERS_EVERY_S),
                    self._repeat(self._end_overdue_credentials, OVERDUE_EVERY_S),
                    self._repeat(self._watch_presence, PRESENCE_EVERY_S),
                    self._repeat(self._configure, CONFIGURE_EVERY_S),
                    self._repeat(self._compare_brokers, RECONCILE_EVERY_S),
                    self._repeat(self._courier.tick, COURIER_EVERY_S),
                    self._repeat(self._tell_what_was_missed, JOBS_EVERY_S),
                    self._repeat(self._scorer.tick, TIDY_EVERY_S),
                    self._repeat(self._scorer.judge_for_banks, JUDGE_EVERY_S),
                    *([] if self._adviser is None else [self._repeat(self._adviser.tick, ADVISE_EVERY_S)]),
                )
            ]
            try:
                done, _ = await asyncio.wait([lost, listening, *jobs], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                log.error("worker.shard_lost", shard=self._settings.broker_shard)
            finally:
                self._owns_shard = False
                metrics.shard_owned.set(0)
                await parts.cancel(jobs)
                await self._courier.end()
                # Answers under way still need the connection and the lease: a successor would ask the provider again.
                await self._issuer.end(within_s=0 if lease.lost.is_set() else ANSWERS_MAY_TAKE_S)
                await parts.cancel([lost, listening])
                await lease.release()

    async def _own_the_shard(self) -> Lease:
        name, told = shard_user(self._settings.broker_shard), False
        while True:
            try:
                lease = await try_lease(self._database, name, folder=parts.lock_folder(self._settings))
            except Exception as error:
                if not will_pass(error):
                    raise
                log.warning("worker.database_away", error=repr(error))
                lease = None
            if lease is not None:
                self._owns_shard = True
                metrics.shard_owned.set(1)
                log.info("worker.shard_owned", shard=self._settings.broker_shard)
                return lease
            if not told:
                log.info("worker.standing_by", shard=self._settings.broker_shard)
                told = True
            await asyncio.sleep(STANDBY_EVERY_S)

    async def _listen(self) -> None:
        """Keep a session on the shard; what was not acknowledged comes again after every interruption."""
        user, attempt = shard_user(self._settings.broker_shard), 0
        while True:
            try:
                async with wire.connected(
                    host=self._settings.broker_host,
                    port=self._settings.broker_port,
                    user=user,
                    password=hub_password(self._settings.master, user),
                    persistent=True,
                ) as connection:
                    self._publisher.attach(connection)
                    self._sweep_now.set()
                    attempt = 0
                    log.info("worker.connected")
                    await self._consumer.consume(connection)
            except wire.BrokerLost as error:
                log.warning("worker.disconnected", error=str(error))
            except Exception:  # the database is away: nothing was acknowledged, so all of it comes again
                log.exception("worker.interrupted")
            finally:
                self._publisher.attach(None)
            await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])
            attempt += 1

    def _table(self) -> Table:
        settings, telling = self._settings, self._telling
        return {
            Channel.STATUS: [
                announcements.before_birth,
                devices.on_status,
                configuration.Births(key_of=telling.key_of, owner=self._owner),
                announcements.on_birth,
            ],
            Channel.HEARTBEAT: [devices.on_heartbeat, configuration.on_heartbeat],
            Channel.CONFIG_ACK: [configuration.on_config_ack],
            Channel.PAYMENT_ACK: [on_payment_ack],
            Channel.PAYMENT_MISSING: [announcements.Gaps(telling=telling)],
            Channel.DYNAMIC_QR_REQUEST: [
                QrRequests(
                    gateways=self._gateways,
                    qr_life_ms=settings.qr_life_s * 1000,
                    key_of=telling.key_of,
                    owner=self._owner,
                )
            ],
            Channel.TIME_REQUEST: [devices.TimeRequests(key_of=telling.key_of, owner=self._owner)],
            Channel.EVENT: [devices.on_event, Buttons(telling=telling), self._telemetry.on_event],
            Channel.LOG: [self._telemetry.on_log],
            Channel.COMMAND_ACK: [on_command_ack],
            Channel.CREDENTIAL_REQUEST: [
                CredentialRequests(
                    issue=credentials.issue,
                    confirm=credentials.confirm,
                    hash_password=hash_password,
                    key_of=telling.key_of,
                    owner=self._owner,
                )
            ],
        }

    def _committed(self, queued: Sequence[Any], channels: set[Channel]) -> None:
        self._publisher.publish(queued)
        if channels & {Channel.STATUS, Channel.PAYMENT_MISSING}:
            self._sweep_now.set()
        if Channel.DYNAMIC_QR_REQUEST in channels:
            self._issue_now.set()

    async def _sweep(self) -> None:
        """End what has expired and send what is due again, until nothing is."""
        while True:
            queued = await self._database.write(self._claim)
            if not queued:
                return
            failpoints.reached("sweep.claimed")
            left = [message for message in self._publisher.hand_over(queued) if message.unconfirmed]
            if left:
                await self._database.write(partial(outbox.put_back, messages=left, now_ms=clock.now_ms()))
                return
            failpoints.reached("sweep.published")
            if len(queued) < SWEEP_LIMIT:
                return

    async def _claim(self, tx: Statements) -> list[Any]:
        now_ms = clock.now_ms()
        await outbox.expire(tx, now_ms=now_ms)
        # A birth may have been recorded beside the transaction that still saw its box offline.
        waiting = await outbox.waiting_for_birth(tx, now_ms=now_ms)
        if back := await online_among(tx, waiting):
            await outbox.make_due(tx, recipients=back, now_ms=now_ms)
        if not self._publisher.connected:
            return []
        await outbox.claim_due(tx, now_ms=now_ms, owner=self._owner, limit=SWEEP_LIMIT)
        return tx.queued

    async def _jobs(self) -> None:
        await end_unpaid(self._database)
        await settle_tokens(self._database)
        await follow_commands(self._database)
        await follow_batches(
            self._database, key_of=self._telling.key_of, owner=self._owner, publish=self._publisher.publish
        )

    async def _forget(self) -> None:
        await forget_what_is_over(self._database)
        await self._courier.forget()
        await self._postman.forget()

    async def _beat(self) -> None:
        shard = shard_user(self._settings.broker_shard)
        await self._database.write(lambda tx: beats.beat(tx, shard=shard, owner=self._owner, now_ms=clock.now_ms()))

    async def _tidy(self) -> None:
        await apply_account_changes(self._database)
        await purge_keys(self._database)
        await self._exporter.purge()
        await finish_erasures(self._database, documents=parts.documents_folder(self._settings))

    async def _check_books(self) -> None:
        await check_books(self._database)

    async def _link_audit_log(self) -> None:
        await link_entries(self._database)

    async def _end_overdue_credentials(self) -> None:
        await device_jobs.end_overdue_credentials(self._database)

    async def _configure(self) -> None:
        await keep_configured(
            self._database, key_of=self._telling.key_of, owner=self._owner, publish=self._publisher.publish
        )

    async def _watch_presence(self) -> None:
        await device_jobs.watch_presence(self._database, listening_since_ms=self._consumer.listening_since_ms)

    async def _compare_brokers(self) -> None:
        await device_jobs.compare_brokers(self._database)

    async def _tell_what_was_missed(self) -> None:
        await tell_what_was_missed(self._database, telling=self._telling, publish=self._publisher.publish)

    async def _take_report(self, report: PaymentReport) -> None:
        await self._desk.take(report, asked=new_id("qry"))

    async def _repeat(
        self, work: Callable[[], Awaitable[None]], every_s: float, woken: asyncio.Event | None = None
    ) -> None:
        """Do it now, again every so often, and at once when woken. A failure is logged and tried again."""
        woken = woken or asyncio.Event()
        while True:
            try:
                await work()
            except Exception:
                log.exception("worker.job_failed", job=getattr(work, "__name__", str(work)))
            try:
                # Not wait_for: Python 3.11's forgets that it was cancelled when it is woken in the same moment.
                async with asyncio.timeout(every_s):
                    await woken.wait()
            except TimeoutError:
                continue
            woken.clear()

    def _status_server(self) -> uvicorn.Server:
        """Health and figures on the worker's own port."""
        ready = health.readyz(
            {
                "database": partial(health.database_answers, self._database),
                "broker": self._broker_or_standby,
                "provider": partial(asked_for, self._gateways),
            },
            can_do_without={"provider"},
        )
        app = Starlette(
            routes=[
                Route("/healthz", health.healthz),
                Route("/readyz", ready),
                Route("/metrics", health.metrics_page(self._database, self._gateways.show)),
            ]
        )
        config = uvicorn.Config(
            app, host=self._settings.worker_host, port=self._settings.worker_port, log_config=None,
            access_log=False, lifespan="off",
        )  # fmt: skip
        return _QuietServer(config)

    async def _broker_or_standby(self) -> bool:
        return self._publisher.connected or not self._owns_shard
