"""What boxes are to be like, made of the layers; sent, sent again, and compared with what they say.

Whoever changes a layer changes that row alone. Which boxes it concerns is found by `out_of_date`, because each
remembers the revisions it was built from: a binding, a new key and a change that was never followed up are found alike.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import structlog

from soundbox_protocol.configuration import sha256_of
from soundbox_protocol.messages import ConfigAck, ConfigPush, encode
from soundbox_protocol.signing import sign
from soundbox_protocol.topics import Downlink, downlink
from soundbox_server.alerts.service import clear, raise_alert
from soundbox_server.alerts.state import Severity
from soundbox_server.codecs.choice import CODECS, listed
from soundbox_server.db import Row, Statements
from soundbox_server.device_config import layers
from soundbox_server.device_config.state import ConfigState, may_follow
from soundbox_server.devices.presence import expect_heartbeats
from soundbox_server.devices.service import Vitals
from soundbox_server.devices.state import IN_SERVICE
from soundbox_server.errors import CapabilityNotSupported, Conflict, NotFound
from soundbox_server.ids import new_id
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import Delivery
from soundbox_server.uplinks import HIGHEST_BELIEVED

log = structlog.get_logger()

PUSH_LIFE_MS = 600_000  # after that the next birth sends it, or somebody who asks for it
DRIFT_AGAIN_MS = 600_000  # a box that takes a configuration and never keeps it is not asked all day
UNANSWERED_AGAIN_MS = 3_600_000  # nor is one that never acks: its line may cost by the byte
CLEARING_LIFE_MS = 60_000
FLEET = "fleet"
KeyOf = Callable[[str, int], bytes]  # device id, key version -> announcement key
Scope = Literal["fleet", "merchant", "device"]
S = ConfigState
_IN_SERVICE = ", ".join(f"'{state}'" for state in IN_SERVICE)
_CONFIGURED = listed("is_configured")  # others have no way to be told

# --- layers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    before: Mapping[str, Any]
    after: Mapping[str, Any]


async def change_layer(
    tx: Statements, scope: Scope, subject_id: str, changes: layers.Settings, *, by: str | None, now_ms: int
) -> LayerChange:
    """Change what is named; None leaves it to the wider layer. Raises NotFound for a subject that there is not, and
    CapabilityNotSupported for a box that takes no configuration."""
    await _require_subject(tx, scope, subject_id)
    await tx.execute(
        "INSERT INTO config_layer (scope, subject_id, settings, revision, updated_at_ms) VALUES ($1, $2, '{}', 0, $3) "
        "ON CONFLICT DO NOTHING",
        scope, subject_id, now_ms,
    )  # fmt: skip
    found = await tx.fetch(
        "SELECT settings FROM config_layer WHERE scope = $1 AND subject_id = $2 " + tx.lock("config_layer"),
        scope,
        subject_id,
    )
    before = json.loads(found[0]["settings"])
    after = layers.changed(before, changes)
    if after != before:
        await tx.execute(
            "UPDATE config_layer SET settings = $3, revision = revision + 1, updated_at_ms = $4, updated_by = $5 "
            "WHERE scope = $1 AND subject_id = $2",
            scope, subject_id, _json(after), now_ms, by,
        )  # fmt: skip
    return LayerChange(before=before, after=after)


async def _require_subject(tx: Statements, scope: Scope, subject_id: str) -> None:
    if scope != FLEET and not await tx.fetch(f"SELECT id FROM {scope} WHERE id = $1", subject_id):
        raise NotFound(f"No such {scope}.", **{f"{scope}_id": subject_id})
    if scope == "device":
        await _require_configurable(tx, subject_id)


async def _require_configurable(tx: Statements, device_id: str) -> None:
    rows = await tx.fetch("SELECT codec FROM device WHERE id = $1", device_id)
    if rows and not CODECS[rows[0]["codec"]].traits.is_configured:
        raise CapabilityNotSupported("A box of this model cannot be configured.", codec=rows[0]["codec"])


# --- the document of each box -------------------------------------------------------------------------------------

_LAYERS = """
FROM device d
LEFT JOIN device_binding b ON b.device_id = d.id AND b.unbound_at_ms IS NULL
LEFT JOIN config_layer f ON f.scope = 'fleet' AND f.subject_id = 'fleet'
LEFT JOIN config_layer m ON m.scope = 'merchant' AND m.subject_id = b.merchant_id
LEFT JOIN config_layer o ON o.scope = 'device' AND o.subject_id = d.id
LEFT JOIN device_config c ON c.device_id = d.id
"""
_SOURCE = (
    "coalesce(f.revision, 0) || '/' || coalesce(b.merchant_id, '') || ':' || coalesce(m.revision, 0) || '/' || "
    "coalesce(o.revision, 0)"
)
_OUT_OF_DATE = f"""
SELECT d.id {_LAYERS}
WHERE d.state IN ({_IN_SERVICE}) AND d.codec IN ({_CONFIGURED}) AND (
  (c.device_id IS NULL AND (f.revision > 0 OR m.revision > 0 OR o.revision > 0))
  OR c.built_from <> {_SOURCE}
  OR (c.message_id IS NOT NULL AND c.key_version <> d.key_version AND c.state <> 'pending'))
ORDER BY d.id LIMIT $1
"""
_BUILT = f"""
SELECT d.id, d.key_version, f.settings AS fleet, m.settings AS merchant, o.settings AS own, {_SOURCE} AS source,
       c.version, c.config, c.state, c.message_id, c.key_version AS signed_with {_LAYERS}
WHERE d.id {{among}} ORDER BY d.id
"""


async def out_of_date(tx: Statements, *, limit: int) -> list[str]:
    """Boxes in service whose document was built from other layers, or signed with another key, than there are now."""
    return [row["id"] for row in await tx.fetch(_OUT_OF_DATE, limit)]


async def build(tx: Statements, device_ids: Sequence[str], *, now_ms: int) -> None:
    """Make these boxes' documents of the layers. One that says something new gets the next version and is to be sent;
    so is one whose box has a new key."""
    ids = sorted(set(device_ids))
    await tx.many(_FIRST, [(device_id, sha256_of(b"{}")) for device_id in ids])
    await _lock_configs(tx, ids)
    for row in await tx.fetch(_BUILT.format(among=tx.among(1)), ids):
        await _build_one(tx, row, now_ms)


_FIRST = """
INSERT INTO device_config (device_id, version, config, sha256, built_from, state, key_version)
VALUES ($1, 0, '{}', $2, '', 'none', 0) ON CONFLICT (device_id) DO NOTHING
"""


async def _build_one(tx: Statements, row: Row, now_ms: int) -> None:
    raw = layers.as_sent([json.loads(row[layer] or "{}") for layer in ("fleet", "merchant", "own")]).decode()
    if raw != row["config"]:
        await tx.execute(
            "UPDATE device_config SET version = version + 1, config = $2, sha256 = $3, built_from = $4, "
            "state = 'pending', changed_at_ms = $5 WHERE device_id = $1",
            row["id"], raw, sha256_of(raw.encode()), row["source"], now_ms,
        )  # fmt: skip
        return
    resign = row["message_id"] is not None and row["signed_with"] != row["key_version"]
    await tx.execute(
        "UPDATE device_config SET built_from = $2, state = $3 WHERE device_id = $1",
        row["id"], row["source"], S.PENDING.value if resign else row["state"],
    )  # fmt: skip


async def _lock_configs(tx: Statements, device_ids: Sequence[str]) -> None:
    await tx.fetch(
        f"SELECT device_id FROM device_config WHERE device_id {tx.among(1)} ORDER BY device_id "
        + tx.lock("device_config"),
        list(device_ids),
    )


# --- sending ------------------------------------------------------------------------------------------------------

# The broker keeps what was signed with an earlier key, and hands it to a box that comes with its new one.
_HEARS_IT = "(p.online OR (c.message_id IS NOT NULL AND c.key_version <> d.key_version))"
_TO_PUSH = f"""
SELECT c.device_id FROM device_config c JOIN device d ON d.id = c.device_id
JOIN device_presence p ON p.device_id = c.device_id
WHERE c.state IN ('pending', 'drifted') AND d.state IN ({_IN_SERVICE}) AND {_HEARS_IT}
  AND (c.state = 'pending' OR c.pushed_at_ms <= $1)
ORDER BY c.device_id LIMIT $2
"""
_PUSHED = f"""
SELECT c.device_id, c.version, c.config, c.sha256, c.state, d.key_version
FROM device_config c JOIN device d ON d.id = c.device_id JOIN device_presence p ON p.device_id = c.device_id
WHERE c.device_id {{among}} AND c.state IN ('pending', 'drifted') AND d.state IN ({_IN_SERVICE}) AND {_HEARS_IT}
ORDER BY c.device_id
"""


async def to_push(tx: Statements, *, now_ms: int, limit: int) -> list[str]:
    """Boxes that are online and have something to be told, and those for which the broker keeps what an earlier key
    signed."""
    return [row["device_id"] for row in await tx.fetch(_TO_PUSH, now_ms - DRIFT_AGAIN_MS, limit)]


async def push(
    tx: Statements, device_ids: Sequence[str], *, key_of: KeyOf, owner: str, trace_id: str, now_ms: int
) -> list[str]:
    """Send these boxes what waits for them, and return whom it was sent to. Whoever is offline gets it at its birth,
    but for what takes the place of something signed with an earlier key: that is retained at once."""
    ids = sorted(set(device_ids))
    await _end_earlier(tx, ids, now_ms=now_ms)
    await _lock_configs(tx, ids)
    messages: list[outbox.Message] = []
    pushed: list[tuple[object, ...]] = []
    for row in await tx.fetch(_PUSHED.format(among=tx.among(1)), ids):
        try:
            message = _message(row, key_of, trace_id, now_ms)
        except ValueError as error:
            await _give_up(tx, row, error, now_ms)
            continue
        messages.append(message)
        pushed.append((row["device_id"], message.id, now_ms, row["key_version"]))
    await outbox.queue(tx, messages, owner=owner)
    await tx.many(
        "UPDATE device_config SET state = 'pushed', message_id = $2, pushed_at_ms = $3, key_version = $4 "
        "WHERE device_id = $1",
        pushed,
    )
    return [message.recipient_id for message in messages]


async def _give_up(tx: Statements, row: Row, error: ValueError, now_ms: int) -> None:
    """What cannot be written is not tried again with each round, and holds up no other box."""
    await tx.execute(
        "UPDATE device_config SET state = 'rejected', key_version = $2 WHERE device_id = $1",
        row["device_id"],
        row["key_version"],
    )
    facts = {"config_version": row["version"], "errors": ["it cannot be written as a message"]}
    await raise_alert(
        tx, "device.config_rejected", ("device", row["device_id"]), severity=Severity.WARNING, facts=facts,
        now_ms=now_ms,
    )  # fmt: skip
    told = {"device_id": row["device_id"], "version": row["version"], "error": str(error)}
    tx.after_commit.append(partial(log.error, "config.cannot_be_sent", **told))


async def _end_earlier(tx: Statements, device_ids: Sequence[str], *, now_ms: int) -> None:
    """Before the configurations are locked: a birth and an ack lock the messages first too."""
    waiting = await tx.fetch(
        f"SELECT m.id FROM outbox_message m JOIN device_config c ON c.device_id = m.recipient_id "
        f"WHERE m.recipient_id {tx.among(1)} AND m.kind = 'config' AND m.state IN ('queued', 'published') "
        f"AND c.state IN ('pending', 'drifted') ORDER BY m.id {tx.lock('m')}",
        list(device_ids),
    )
    await tx.many(
        "UPDATE outbox_message SET state = 'expired', reason = 'superseded', due_at_ms = NULL, finished_at_ms = $2 "
        "WHERE id = $1",
        [(row["id"], now_ms) for row in waiting],
    )


def _message(row: Row, key_of: KeyOf, trace_id: str, now_ms: int) -> outbox.Message:
    device_id, topic = row["device_id"], downlink(row["device_id"], Downlink.CONFIG_PUSH)
    body = encode(ConfigPush(config_version=row["version"], config=json.loads(row["config"]), sha256=row["sha256"]))
    return _retained(
        device_id, topic, sign(key_of(device_id, row["key_version"]), topic, body), PUSH_LIFE_MS, trace_id, now_ms
    )


def _retained(device_id: str, topic: str, body: bytes, life_ms: int, trace_id: str, now_ms: int) -> outbox.Message:
    return outbox.Message(
        id=new_id("cfg"), kind=outbox.CONFIG, recipient_id=device_id, address=topic, body=body, created_at_ms=now_ms,
        expires_at_ms=now_ms + life_ms, trace_id=trace_id, state=Delivery.PUBLISHED,
    )  # fmt: skip


async def has_work(tx: Statements, *, now_ms: int) -> bool:
    """Whether anything is to be sent, cleared or given up."""
    if await to_push(tx, now_ms=now_ms, limit=1):
        return True
    return bool(await tx.fetch(f"{_UNANSWERED} LIMIT 1") or await tx.fetch(f"{_LEFT_OVER} LIMIT 1"))


_UNANSWERED = """
SELECT c.device_id FROM device_config c JOIN outbox_message m ON m.id = c.message_id
WHERE c.state = 'pushed' AND m.state = 'expired' ORDER BY c.device_id
"""
_LEFT_OVER = """
SELECT c.device_id FROM device_config c JOIN device d ON d.id = c.device_id
WHERE d.state IN ('revoked', 'retired') AND c.state NOT IN ('none', 'cleared') ORDER BY c.device_id
"""


async def ask_again(tx: Statements, device_id: str) -> None:
    """It is to be sent once more. Raises NotFound, and Conflict when nothing is configured or the box has left, and
    CapabilityNotSupported for one that takes no configuration."""
    await _lock_configs(tx, [device_id])
    rows = await tx.fetch(
        "SELECT d.id, d.state AS standing, c.state FROM device d LEFT JOIN device_config c ON c.device_id = d.id "
        "WHERE d.id = $1",
        device_id,
    )
    if not rows:
        raise NotFound("No such device.", device_id=device_id)
    await _require_configurable(tx, device_id)
    if rows[0]["standing"] not in IN_SERVICE:
        raise Conflict("This device is not in service.", state=rows[0]["standing"])
    if rows[0]["state"] in (None, S.NONE, S.CLEARED):
        raise Conflict("Nothing is configured for this device.")
    await tx.execute("UPDATE device_config SET state = 'pending' WHERE device_id = $1", device_id)


async def end_unanswered(tx: Statements) -> None:
    """What was sent for ten minutes in vain waits for the next birth, for a heartbeat that says another hash, or for
    somebody who asks."""
    lock = tx.lock("c", skip=True)
    await tx.execute(
        f"UPDATE device_config SET state = 'unanswered' WHERE device_id IN ({_UNANSWERED} {lock})",
    )


async def clear_left_over(tx: Statements, *, owner: str, now_ms: int, limit: int) -> None:
    """The broker forgets what it keeps for boxes that will not come back."""
    rows = await tx.fetch(f"{_LEFT_OVER} LIMIT $1 {tx.lock('c', skip=True)}", limit)
    ids = [row["device_id"] for row in rows]
    empty = [
        _retained(one, downlink(one, Downlink.CONFIG_PUSH), b"", CLEARING_LIFE_MS, new_id("trc"), now_ms) for one in ids
    ]
    await outbox.queue(tx, empty, owner=owner)
    await tx.many("UPDATE device_config SET state = 'cleared' WHERE device_id = $1", [(one,) for one in ids])


# --- what boxes say -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a box says is in force. A birth that says nothing of it is a box that does not tell."""

    device_id: str
    version: int | None
    sha256: str | None
    at_birth: bool


async def take_vitals(tx: Statements, beats: Sequence[Vitals]) -> None:
    """What heartbeats say of it, whichever door they came through."""
    words = [
        Said(device_id=beat.device_id, version=None, sha256=beat.config_sha256, at_birth=False)
        for beat in beats
        if beat.config_sha256 is not None
    ]
    if words:
        await take_words(tx, words, now_ms=max(beat.received_at_ms for beat in beats))


_STANDING = """
SELECT device_id, version, config, sha256, state, pushed_at_ms, reported_version, reported_sha256, acked_sha256
FROM device_config WHERE device_id {among} AND version > 0 AND state <> 'cleared' ORDER BY device_id
"""


async def take_words(tx: Statements, words: Sequence[Said], *, now_ms: int) -> None:
    """Compare what boxes say with what they should. A heartbeat that says nothing new costs one look."""
    latest = {said.device_id: said for said in words}
    rows = await tx.fetch(_STANDING.format(among=tx.among(1)), sorted(latest))
    news = [row["device_id"] for row in rows if _is_news(row, latest[row["device_id"]], now_ms)]
    if not news:
        return
    await _lock_configs(tx, news)
    for row in await tx.fetch(_STANDING.format(among=tx.among(1)), news):
        await _take_word(tx, row, latest[row["device_id"]], now_ms)


def _is_news(row: Row, said: Said, now_ms: int) -> bool:
    if (said.sha256, said.version or row["reported_version"]) != (row["reported_sha256"], row["reported_version"]):
        return True
    return _wanted(row, said, now_ms) is not None


def _wanted(row: Row, said: Said, now_ms: int) -> ConfigState | None:
    """The state that follows from a box's word; None: it stays."""
    state = S(row["state"])
    if said.sha256 == row["sha256"]:
        return None if state is S.APPLIED else S.APPLIED
    if said.at_birth:
        # It may have forgotten, or got another firmware that can have it; one that never tells is believed its ack.
        never_tells = said.sha256 is None and row["reported_sha256"] is None and row["acked_sha256"] is None
        return None if state is S.PENDING or (state is S.APPLIED and never_tells) else S.PENDING
    if state is S.UNANSWERED and said.sha256 is not None:
        # It lives, and has something else in force: what it could not take then it may take now.
        return S.PENDING if now_ms - (row["pushed_at_ms"] or 0) >= UNANSWERED_AGAIN_MS else None
    return S.DRIFTED if state is S.APPLIED else None


async def _take_word(tx: Statements, row: Row, said: Said, now_ms: int) -> None:
    version, state, wanted = row["version"], S(row["state"]), _wanted(row, said, now_ms)
    if said.version is not None and said.version > HIGHEST_BELIEVED:
        _doubt(tx, row, said)
    elif said.version is not None and said.version > version:
        # A box never goes back to a lower version, and ours may come from a backup.
        version, wanted = said.version + 1, S.PENDING
    moves = wanted is not None and may_follow(state, wanted)
    await tx.execute(
        "UPDATE device_config SET version = $2, state = $3, reported_version = coalesce($4, reported_version), "
        "reported_sha256 = $5, reported_at_ms = $6 WHERE device_id = $1",
        row["device_id"], version, (wanted if moves and wanted else state).value, said.version, said.sha256, now_ms,
    )  # fmt: skip
    if moves and wanted is S.DRIFTED:
        facts = {"config_version": version, "sha256": row["sha256"], "reported_sha256": said.sha256}
        await raise_alert(
            tx, "device.config_drifted", ("device", row["device_id"]), severity=Severity.WARNING, facts=facts,
            now_ms=now_ms,
        )  # fmt: skip
    if said.sha256 == row["sha256"]:
        await _is_in_force(tx, row, now_ms=now_ms)


def _doubt(tx: Statements, row: Row, said: Said) -> None:
    """Nobody changes a box so often: whoever counted on from there would soon have no version left."""
    if said.version != row["reported_version"]:
        facts = {"device_id": row["device_id"], "version": row["version"], "reported_version": said.version}
        tx.after_commit.append(partial(log.warning, "config.version_not_believed", **facts))


async def _is_in_force(tx: Statements, row: Row, *, now_ms: int) -> None:
    await expect_heartbeats(tx, row["device_id"], json.loads(row["config"]).get("heartbeat_s"), now_ms=now_ms)
    for kind in ("device.config_drifted", "device.config_rejected"):
        await clear(tx, kind, ("device", row["device_id"]), now_ms=now_ms)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an ack did. `state` is None where nothing is configured; `counts` is false for one of another version."""

    device_id: str
    version: int
    state: ConfigState | None
    counts: bool = False


_ACKED = """
SELECT c.device_id, c.version, c.config, c.sha256, c.state, c.message_id FROM device_config c
WHERE c.device_id {among} AND c.version > 0 ORDER BY c.device_id
"""


async def take_acks(tx: Statements, acks: Sequence[ConfigAck], *, now_ms: int) -> list[Verdict]:
    """Record what boxes say became of configurations. What they say of an earlier version changes nothing."""
    ids = sorted({ack.device_id for ack in acks})
    sent = await tx.fetch(
        "SELECT m.id FROM outbox_message m JOIN device_config c ON c.message_id = m.id "
        f"WHERE c.device_id {tx.among(1)} ORDER BY m.id {tx.lock('m')}",
        ids,
    )
    await _lock_configs(tx, ids)
    known = {row["device_id"]: row for row in await tx.fetch(_ACKED.format(among=tx.among(1)), ids)}
    sendings = {row["id"] for row in sent}
    verdicts = [await _take_ack(tx, known.get(ack.device_id), ack, sendings, now_ms) for ack in acks]
    tx.after_commit.append(partial(_report, verdicts))
    return verdicts


async def _take_ack(tx: Statements, row: Row | None, ack: ConfigAck, sendings: set[str], now_ms: int) -> Verdict:
    if row is None:
        return Verdict(device_id=ack.device_id, version=ack.config_version, state=None)
    if ack.config_version != row["version"]:
        return Verdict(device_id=ack.device_id, version=ack.config_version, state=S(row["state"]))
    wanted, errors = _outcome(row, ack)
    state = wanted if may_follow(row["state"], wanted) else S(row["state"])
    await tx.execute(
        "UPDATE device_config SET state = $2, acked_version = $3, acked_status = $4, acked_sha256 = $5, "
        "acked_errors = $6, acked_at_ms = $7, reported_version = $3, reported_sha256 = coalesce($8, reported_sha256), "
        "reported_at_ms = $7 WHERE device_id = $1",
        ack.device_id, state.value, ack.config_version, ack.status, ack.sha256, _json(errors), now_ms,
        ack.sha256 if wanted is S.APPLIED else None,
    )  # fmt: skip
    if row["message_id"] in sendings:
        proof = "played" if wanted is S.APPLIED else "rejected"
        answer = outbox.Answer(message_id=row["message_id"], recipient_id=ack.device_id, status=proof)
        await outbox.acknowledge(tx, [answer], now_ms=now_ms)
    if wanted is S.APPLIED:
        await _is_in_force(tx, row, now_ms=now_ms)
    else:
        await raise_alert(
            tx, "device.config_rejected", ("device", ack.device_id), severity=Severity.WARNING,
            facts={"config_version": ack.config_version, "errors": errors}, now_ms=now_ms,
        )  # fmt: skip
    return Verdict(device_id=ack.device_id, version=ack.config_version, state=state, counts=True)


def _outcome(row: Row, ack: ConfigAck) -> tuple[ConfigState, list[str]]:
    """A box that applied something else under this number did not apply it."""
    if ack.status == "applied" and ack.sha256 not in (None, row["sha256"]):
        return S.REJECTED, ["sha256: not that of the configuration"]
    return (S.APPLIED, []) if ack.status == "applied" else (S.REJECTED, list(ack.errors or []))


def _report(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        said = verdict.state.value if verdict.state else "not_configured"
        log.info(
            "config.acked", device_id=verdict.device_id, version=verdict.version, state=said, counts=verdict.counts
        )


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
