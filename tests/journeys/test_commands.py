"""Commands and possession with the simulated box, over a real broker."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import pytest_asyncio
from support.device import Credentials, activate
from support.stack import Stack, until

from soundbox_protocol.speech import amount_words
from soundbox_server.broker.probe import login
from soundbox_sim.activation import BrokerAddress
from soundbox_sim.box import Box, BoxSettings, NewCredential
from soundbox_sim.journal import Journal
from soundbox_sim.radio import Backoff, Counter, Heartbeats, Radio
from soundbox_sim.rotation import Keyring
from soundbox_sim.voice import SilentVoice

pytestmark = [pytest.mark.journey, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("commands")]

DIGITS = {amount_words(digit, "id"): str(digit) for digit in range(10)}


@pytest_asyncio.fixture(loop_scope="module")
async def idle(hub: Stack, numbers: Iterator[int]) -> Credentials:
    """A box that is activated and stands nowhere."""
    return await activate(hub, next(numbers), bound=False)


@asynccontextmanager
async def on_air(
    hub: Stack,
    box: Credentials,
    folder: Path,
    *,
    keep: Callable[[NewCredential], None] | None = None,
    keyring: Keyring | None = None,
) -> AsyncIterator[SilentVoice]:
    """The simulated box on the air; what it says is in the voice."""
    clock, voice, stop = Counter(), SilentVoice(), asyncio.Event()
    radio = Radio(
        lambda: Box(
            box.device_id, box.key, Journal(folder), account=f"{box.device_id}/1", now_ms=clock(),
            token=lambda: secrets.token_urlsafe(16), settings=BoxSettings(), keep=keep,
        ),
        broker=BrokerAddress(host="127.0.0.1", port=hub.broker_port, username=box.username, password=box.password),
        voice=voice, watch=lambda box, told: print(box.device_id, told), now_ms=clock, random=Random(1),
        heartbeats=Heartbeats(every_s=3_600), backoff=Backoff(first_s=0.1, longest_s=0.5),
        keyring=keyring,
    )  # fmt: skip
    running = asyncio.create_task(radio.run(stop))
    try:
        yield voice
    finally:
        stop.set()
        await running


async def online(hub: Stack, box: Credentials) -> bool:
    found = await hub.query("SELECT online FROM device_presence WHERE device_id = $1", box.device_id)
    return [bool(up) for (up,) in found] == [True]


async def code_heard(voice: SilentVoice) -> str:
    """The digits of the last code that was said, as somebody in front of the box hears them."""

    def said() -> list[str]:
        return [speech.sentence for speech in voice.said if speech.sentence.startswith("Kode: ")]

    sentences: list[str] = await until(said, what="a spoken code")
    return "".join(DIGITS[word] for word in sentences[-1].removeprefix("Kode: ").split())


async def ask(hub: Stack, box: Credentials, path: str, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=hub.url, headers=await hub.login(), timeout=20) as operator:
        return await operator.post(f"/admin/devices/{box.device_id}/{path}", json=body)


async def state_of(hub: Stack, command_id: str) -> str:
    ((state,),) = await hub.query("SELECT state FROM device_command WHERE id = $1", command_id)
    return str(state)


async def test_a_box_is_bound_by_whoever_hears_its_code(hub: Stack, idle: Credentials, tmp_path: Path) -> None:
    async with on_air(hub, idle, tmp_path) as voice:
        await until(lambda: online(hub, idle), what="the box online")
        begun = await ask(hub, idle, "bind", terminal_id=idle.terminal_id, possession="check")
        assert begun.status_code == 202, begun.text
        challenge = begun.json()["data"]["challenge"]

        code = await code_heard(voice)
        bound = await ask(hub, idle, "bind/confirm", challenge_id=challenge["challenge_id"], code=code)

        async def done() -> bool:
            return await state_of(hub, challenge["command_id"]) == "succeeded"

        assert bound.status_code == 200, bound.text
        await until(done, what="the box's word that it spoke")


async def test_what_waits_for_an_offline_box_is_done_when_it_is_back(
    hub: Stack, idle: Credentials, tmp_path: Path
) -> None:
    given = await ask(hub, idle, "commands", command_name="speak_code", payload={"code": "90210"})
    command_id = given.json()["data"]["command_id"]
    assert await state_of(hub, command_id) == "queued"

    async with on_air(hub, idle, tmp_path) as voice:
        assert await code_heard(voice) == "90210"

        async def done() -> bool:
            return await state_of(hub, command_id) == "succeeded"

        await until(done, what="the box's word that it spoke")
    acks = await hub.query("SELECT status, conflicting FROM device_command_ack WHERE command_id = $1", command_id)
    assert {status for status, conflicting in acks if not conflicting} == {"delivered", "succeeded"}


async def test_a_box_without_https_changes_its_credential(hub: Stack, idle: Credentials, tmp_path: Path) -> None:
    kept: list[NewCredential] = []
    async with on_air(hub, idle, tmp_path, keep=kept.append):
        await until(lambda: online(hub, idle), what="the box online")
        await ask(hub, idle, "commands", command_name="rotate_credential")

        async def in_force() -> bool:
            found = await hub.query(
                "SELECT id FROM device_credential WHERE device_id = $1 AND state = 'active'", idle.device_id
            )
            return bool(kept) and found == [(kept[-1].credential_id,)]

        await until(in_force, what="the new credential in force")

    async def let_in(password: str) -> bool:
        return await login("127.0.0.1", hub.broker_port, user=idle.device_id, password=password)

    await until(lambda: let_in(kept[-1].broker_password), what="the broker knows the new password")
    assert not await let_in(idle.password)


class Held(Keyring):
    """A credential that nobody changes."""

    def __init__(self, hub: Stack, box: Credentials) -> None:
        self._hub, self._box = hub, box

    def read_again(self) -> None: ...

    server = property(lambda self: self._hub.url)
    is_rotating = property(lambda self: False)
    next = property(lambda self: None)
    password = property(lambda self: self._box.password)
    next_password = property(lambda self: None)
    tokens = property(lambda self: (self._box.token,))


async def test_an_operator_listens_to_the_log_reads_what_went_over_mqtt_and_gets_all_of_it(
    hub: Stack, idle: Credentials, tmp_path: Path
) -> None:
    path = f"/admin/devices/{idle.device_id}"
    async with httpx.AsyncClient(base_url=hub.url, headers=await hub.login(), timeout=20) as operator:

        async def of(kind: str) -> list[dict[str, Any]]:
            return list((await operator.get(f"{path}/{kind}")).json()["data"])

        async def live(code: str) -> bool:
            return code in [line["code"] for line in await of("logs")]

        async def whole() -> bool:
            return [file["status"] for file in await of("log-files")] == ["whole"]

        async def written(command_id: str) -> bool:  # by two processes, each when it has the time
            messages = await of("mqtt-messages?limit=100")
            topics = {one["topic"].split("/", 3)[3] for one in messages}
            return {"command", "command/ack", "log"} <= topics and command_id in [one["message_id"] for one in messages]

        async with on_air(hub, idle, tmp_path, keyring=Held(hub, idle)) as voice:
            await until(lambda: online(hub, idle), what="the box online")
            await ask(hub, idle, "commands", command_name="tail_log")
            spoken = await ask(hub, idle, "commands", command_name="speak_code", payload={"code": "47110815"})
            code = await code_heard(voice)
            await until(lambda: live("code_spoken"), what="a live line of the log")
            asked = await ask(hub, idle, "commands", command_name="upload_log", payload={"whole": True})
            await until(whole, what="the whole log")
            command_id = spoken.json()["data"]["command_id"]
            await until(lambda: written(command_id), what="the messages written down")

        (file,) = await of("log-files")
        log = await operator.get(f"{path}/log-files/{file['id']}/file")
        messages = await of("mqtt-messages?limit=100")
        now = (await operator.get(f"{path}/diagnosis")).json()["data"]

    assert code == "47110815"
    assert " code_spoken" in log.text
    assert "47110815" not in log.text
    assert "47110815" not in str(messages)
    assert {one["outcome"] for one in messages} == {"read", "sent"}
    assert file["command_id"] == asked.json()["data"]["command_id"]
    assert now["cause"] in ("offline", "not_bound")


async def test_an_offline_box_does_once_what_was_given_before_the_hub_began_anew(
    hub: Stack, idle: Credentials, tmp_path: Path
) -> None:
    given = await ask(hub, idle, "commands", command_name="play_test")
    replaced = await ask(hub, idle, "commands", command_name="set_volume", payload={"volume": 10})
    volume = await ask(hub, idle, "commands", command_name="set_volume", payload={"volume": 35})
    test_id, old_id, volume_id = (answer.json()["data"]["command_id"] for answer in (given, replaced, volume))
    await next(child for child in hub.children if child.name == "worker").kill()
    hub.children = [child for child in hub.children if child.name != "worker"]
    await hub.start("worker")
    before = [await state_of(hub, command_id) for command_id in (test_id, old_id, volume_id)]

    async with on_air(hub, idle, tmp_path) as voice:

        async def done() -> bool:
            return {await state_of(hub, test_id), await state_of(hub, volume_id)} == {"succeeded"}

        await until(done, what="both done")
        # Without the box's own word that its network was away, which a busy machine may bring about.
        said = [(speech.event_id, speech.sentence) for speech in voice.said if speech.event_id is not None]

    assert before == ["queued", "cancelled", "queued"]
    assert said == [(test_id, "Tes suara: satu dua tiga")]


async def test_a_box_is_configured_while_it_runs_and_after_a_reboot(
    hub: Stack, idle: Credentials, tmp_path: Path
) -> None:
    async def configure(**settings: Any) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=hub.url, headers=await hub.login(), timeout=20) as operator:
            answer = await operator.patch(f"/admin/devices/{idle.device_id}/config", json=settings)
            return dict(answer.json()["data"])

    async def standing() -> tuple[Any, ...]:
        found = await hub.query("SELECT version, state FROM device_config WHERE device_id = $1", idle.device_id)
        return found[0]

    offline = await configure(language="en")
    async with on_air(hub, idle, tmp_path) as voice:
        await until(lambda: _is(standing, (1, "applied")), what="the first configuration in force")
        live = await configure(volume=35)
        await until(lambda: _is(standing, (2, "applied")), what="the second one in force")
        rebooted = (await ask(hub, idle, "commands", command_name="reboot")).json()["data"]["command_id"]

        async def back() -> bool:
            return await state_of(hub, rebooted) == "succeeded"

        await until(back, what="the box back after its reboot")
        await until(lambda: online(hub, idle), what="the box online again")
        await ask(hub, idle, "commands", command_name="identify")
        await until(lambda: "Here I am" in [one.sentence for one in voice.said], what="its answer")

    assert offline["status"] == "pending"
    assert live["status"] in ("pushed", "applied")  # a box may be as quick as the answer
    assert ("Here I am", 35) in [(one.sentence, one.volume) for one in voice.said]


async def _is(standing: Callable[[], Any], wanted: tuple[Any, ...]) -> bool:
    return bool(await standing() == wanted)
