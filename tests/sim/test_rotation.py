import base64
import json
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from soundbox_sim.activation import BrokerAddress, Credentials, load_credentials, store_credentials
from soundbox_sim.faults import ROTATION_STEPS
from soundbox_sim.rotation import Keyring, RotationRefused, rotate

PATH = "/device/provision/refresh-credential"


class CutError(Exception):
    """The plug was pulled here."""


class FakeHub:
    """One box's credentials as a hub keeps them: a token in force, and perhaps one that was issued."""

    def __init__(self) -> None:
        self.active, self.issued, self.asked = "first", "", 0
        self.instead: list[httpx.Response | Exception] = []

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == PATH
        if self.instead:
            answer = self.instead.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        token = request.headers["authorization"].removeprefix("Bearer ")
        confirms = json.loads(request.content).get("confirm")
        if token not in (self.active, self.issued if confirms else None):
            return httpx.Response(401, json={"code": "DEVICE_UNAUTHORIZED"})
        return self._confirm(confirms) if confirms else self._issue()

    def _issue(self) -> httpx.Response:
        self.asked += 1
        self.issued = f"token-{self.asked}"
        data = {"credential_id": f"cred-{self.issued}", "device_token": self.issued}
        return httpx.Response(200, json={"data": data | {"broker": {"password": f"password of {self.issued}"}}})

    def _confirm(self, credential_id: str) -> httpx.Response:
        if credential_id == f"cred-{self.issued}":
            self.active, self.issued = self.issued, ""
        if credential_id != f"cred-{self.active}":
            return httpx.Response(404, json={"code": "NOT_FOUND", "details": {"credential_id": credential_id}})
        return httpx.Response(200, json={"data": {"status": "active"}})


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    store_credentials(
        tmp_path,
        Credentials(
            device_id="dev_a1",
            device_token="first",
            broker=BrokerAddress(host="127.0.0.1", port=1883, username="dev_a1", password="password of first"),
            announcement_key=base64.urlsafe_b64encode(bytes(32)).decode(),
            key_version=1,
            server="http://hub.test",
            serial_number="SN-1",
            code_sha256="x",
        ),
    )
    return tmp_path


def keyring(home: Path) -> Keyring:
    """As after a boot: only the disk counts."""
    held = load_credentials(home)
    assert held is not None
    return Keyring(home, held)


def cut_at(step: str) -> Callable[[str], Awaitable[None]]:
    async def stop(reached: str) -> None:
        if reached == step:
            raise CutError(step)

    return stop


async def turn(home: Path, hub: FakeHub, *, step: str = "") -> str:
    async with hub.client() as client:
        return await rotate(keyring(home), client, step=cut_at(step))


async def test_a_new_credential_is_stored_before_it_is_confirmed(home: Path, hub: FakeHub) -> None:
    with pytest.raises(CutError):
        await turn(home, hub, step="stored")

    assert keyring(home).tokens == ("first", "token-1")
    assert hub.active == "first"
    assert stat.S_IMODE((home / "credentials.json").stat().st_mode) == 0o600


async def test_until_the_broker_has_let_it_in_both_are_kept(home: Path, hub: FakeHub) -> None:
    assert await turn(home, hub) == "cred-token-1"
    held = keyring(home)
    assert (held.password, held.next_password) == ("password of first", "password of token-1")

    held.settle()

    settled = keyring(home)
    assert (settled.tokens, settled.password, settled.next_password) == (("token-1",), "password of token-1", None)


@pytest.mark.parametrize("step", [step for step in ROTATION_STEPS if step != "let-in"])
async def test_cut_at_any_step_the_next_try_ends_it(home: Path, hub: FakeHub, step: str) -> None:
    with pytest.raises(CutError):
        await turn(home, hub, step=step)
    assert hub.active in keyring(home).tokens

    confirmed = await turn(home, hub)

    assert confirmed == f"cred-{hub.active}"
    assert keyring(home).tokens == ("first", hub.active)


async def test_an_answer_that_was_lost_after_the_commit_does_no_harm(home: Path, hub: FakeHub) -> None:
    with pytest.raises(CutError):
        await turn(home, hub, step="stored")
    hub._confirm("cred-token-1")

    assert await turn(home, hub) == "cred-token-1"


async def test_a_credential_the_hub_has_forgotten_is_dropped(home: Path, hub: FakeHub) -> None:
    with pytest.raises(CutError):
        await turn(home, hub, step="stored")
    hub.issued = "another"

    with pytest.raises(RotationRefused, match="404"):
        await turn(home, hub)

    assert keyring(home).tokens == ("first",)
    assert await turn(home, hub) == "cred-token-2"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, text="no such page"),
        httpx.Response(404, json={"code": "NOT_FOUND", "details": {}}),
        httpx.Response(409, json={"details": {"credential_id": "cred-other"}}),
        httpx.Response(410),
    ],
)
async def test_a_refusal_that_is_not_the_hubs_own_word_costs_nothing(
    home: Path, hub: FakeHub, answer: httpx.Response
) -> None:
    with pytest.raises(CutError):
        await turn(home, hub, step="stored")
    hub.instead = [answer]

    with pytest.raises(RotationRefused):
        await turn(home, hub)

    assert keyring(home).tokens == ("first", "token-1")


@pytest.mark.parametrize("trouble", [httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(429)])
async def test_a_hub_in_trouble_is_to_be_asked_again(home: Path, hub: FakeHub, trouble: Any) -> None:
    if isinstance(trouble, httpx.Response):
        trouble.request = httpx.Request("POST", f"http://hub.test{PATH}")
    hub.instead = [trouble]

    with pytest.raises(httpx.HTTPError):
        await turn(home, hub)

    assert await turn(home, hub) == "cred-token-1"


@pytest.mark.parametrize("answer", [httpx.Response(200, text="hello"), httpx.Response(200, json={"data": {}})])
async def test_an_answer_that_is_none_changes_nothing(home: Path, hub: FakeHub, answer: httpx.Response) -> None:
    hub.instead = [answer]

    with pytest.raises(RotationRefused):
        await turn(home, hub)

    assert keyring(home).tokens == ("first",)
