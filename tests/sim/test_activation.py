import base64
import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from soundbox_sim.activation import ActivationRefused, Credentials, activate, credentials_for, load_credentials

SERVER = "http://hub.test"
DATA = {
    "device_id": "dev_a1",
    "device_token": "token",
    "broker": {"host": "127.0.0.1", "port": 1883, "username": "dev_a1", "password": "secret", "tls": False},
    "announcement_key": base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("="),
    "key_version": 1,
    "server_time": "2026-05-23T10:00:00Z",
}


class FakeHub:
    """Answers in turn with what it was given, and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked, self.pauses = list(answers), [], []

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.method, request.url.path, json.loads(request.content)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def granted(**changes: Any) -> httpx.Response:
    return httpx.Response(201, json={"data": {**DATA, **changes}, "request_id": "r", "timestamp": "t"})


async def get(hub: FakeHub, home: Path, **changes: Any) -> Credentials:
    asked = {"server": SERVER, "serial_number": "SN-1", "activation_code": "ABCDE12345", **changes}
    async with hub.client() as client:
        return await credentials_for(home, client, **asked)


async def test_a_code_buys_credentials_once(tmp_path: Path) -> None:
    hub = FakeHub(granted())
    first = await get(hub, tmp_path)
    second = await get(hub, tmp_path)
    without_code = await get(hub, tmp_path, activation_code=None)

    assert first == second == without_code
    assert hub.asked == [
        ("POST", "/device/provision/activate", {"activation_code": "ABCDE12345", "serial_number": "SN-1"})
    ]
    assert (first.key, first.broker.username) == (bytes(range(32)), "dev_a1")


async def test_credentials_are_nobody_elses_to_read_and_hold_no_code(tmp_path: Path) -> None:
    await get(FakeHub(granted()), tmp_path / "home")
    path = tmp_path / "home" / "credentials.json"

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "ABCDE12345" not in path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["credentials.json"]


@pytest.mark.parametrize(
    "changes", [{"activation_code": "FGHJK67890"}, {"serial_number": "SN-2"}, {"server": "http://other.test"}]
)
async def test_another_code_serial_or_server_activates_anew(tmp_path: Path, changes: dict[str, str]) -> None:
    hub = FakeHub(granted(), granted(key_version=2))
    first = await get(hub, tmp_path)
    second = await get(hub, tmp_path, **changes)

    assert first.account != second.account
    assert load_credentials(tmp_path) == second


async def test_a_refusal_is_final_and_says_why(tmp_path: Path) -> None:
    hub = FakeHub(httpx.Response(401, json={"code": "DEVICE_UNAUTHORIZED", "message": "no such code"}))
    with pytest.raises(ActivationRefused, match="401 DEVICE_UNAUTHORIZED: no such code"):
        await get(hub, tmp_path)

    assert len(hub.asked) == 1
    assert load_credentials(tmp_path) is None


async def test_a_hub_that_is_not_up_yet_is_asked_again(tmp_path: Path) -> None:
    busy = httpx.Response(429, headers={"retry-after": "7"})
    hub = FakeHub(httpx.ConnectError("refused"), httpx.Response(503, text="<html>"), busy, granted())
    async with hub.client() as client:
        found = await activate(client, server=SERVER, serial_number="SN-1", activation_code="A", pause=hub.pause)

    assert found.device_id == "dev_a1"
    assert hub.pauses == [1.0, 2.0, 7.0]


async def test_a_hub_that_never_answers_is_given_up(tmp_path: Path) -> None:
    hub = FakeHub(*[httpx.ConnectError("refused")] * 8)
    async with hub.client() as client:
        with pytest.raises(ActivationRefused, match="ConnectError: refused, after 8 attempts"):
            await activate(client, server=SERVER, serial_number="SN-1", activation_code="A", pause=hub.pause)

    assert hub.pauses == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="hello"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"data": {}}),
        granted(announcement_key="c2hvcnQ"),
        granted(announcement_key="!"),
    ],
)
async def test_an_answer_that_is_none_is_refused(tmp_path: Path, answer: httpx.Response) -> None:
    with pytest.raises(ActivationRefused):
        await get(FakeHub(answer), tmp_path)


async def test_without_code_and_credentials_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(ActivationRefused, match="no code was given"):
        await get(FakeHub(), tmp_path, activation_code=None)
