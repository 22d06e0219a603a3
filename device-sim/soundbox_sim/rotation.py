"""How a box changes its token and its broker password while it is in use.

Two phases, and the disk between them: ask for new ones, store them beside the old, confirm. From then on the hub may
swap the broker's password at any moment, so the box tries the new one first and then the old, and forgets the old one
only when the broker has let it in with the new. Cut at any line, what is on the disk gets the box in again.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from soundbox_sim.activation import Credentials, NextCredential, load_credentials, store_credentials

Step = Callable[[str], Awaitable[None]]


class RotationRefused(RuntimeError):
    """The hub wants none of it. The box goes on with what it has."""


class Keyring:
    """The credentials on the box's disk. What changes here is on the disk before the call returns."""

    def __init__(self, home: Path, credentials: Credentials) -> None:
        self._home, self._held = home, credentials

    def read_again(self) -> None:
        """After a power cut only the disk counts."""
        self._held = load_credentials(self._home) or self._held

    @property
    def server(self) -> str:
        return self._held.server

    @property
    def is_rotating(self) -> bool:
        return self._held.next is not None

    @property
    def next(self) -> NextCredential | None:
        return self._held.next

    @property
    def password(self) -> str:
        return self._held.broker.password

    @property
    def next_password(self) -> str | None:
        return None if self._held.next is None else self._held.next.password

    @property
    def tokens(self) -> tuple[str, ...]:
        """The one in force, then the next one."""
        coming = () if self._held.next is None else (self._held.next.device_token,)
        return (self._held.device_token, *coming)

    def put_beside(self, coming: NextCredential | None) -> None:
        """Keep a new credential beside the one in force, or drop it."""
        self._keep(self._held.model_copy(update={"next": coming}))

    def settle(self) -> None:
        """The next one worked at the broker: it is the only one from now on."""
        held = self._held
        if held.next is None:
            return
        broker = held.broker.model_copy(update={"password": held.next.password})
        self._keep(held.model_copy(update={"broker": broker, "device_token": held.next.device_token, "next": None}))

    def _keep(self, credentials: Credentials) -> None:
        store_credentials(self._home, credentials)
        self._held = credentials


async def rotate(keyring: Keyring, client: httpx.AsyncClient, *, step: Step) -> str:
    """Ask, store, confirm: from the beginning, or from where the last try was cut. Returns the credential's id.

    Raises RotationRefused, and httpx.HTTPError while the hub cannot be reached or is too busy: then call it again.
    `step` hears of each step that is done, before the next one begins.
    """
    coming = keyring.next
    if coming is None:
        coming = await _ask(keyring, client)
        await step("answered")
        keyring.put_beside(coming)
        await step("stored")
    tokens = (coming.device_token, keyring.tokens[0])
    answer = await _post(keyring, client, tokens, {"confirm": coming.credential_id})
    if _has_no_future(answer, coming):
        keyring.put_beside(None)
        raise RotationRefused(f"{coming.credential_id}: the hub answers {answer.status_code}")
    _require_success(answer)
    await step("confirmed")
    return coming.credential_id


async def _ask(keyring: Keyring, client: httpx.AsyncClient) -> NextCredential:
    answer = await _post(keyring, client, keyring.tokens, {})
    _require_success(answer)
    try:
        data = answer.json()["data"]
        return NextCredential.model_validate({**data, "password": data["broker"]["password"]})
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise RotationRefused(f"the hub's answer is not one: {error}") from error


async def _post(
    keyring: Keyring, client: httpx.AsyncClient, tokens: tuple[str, ...], body: dict[str, Any]
) -> httpx.Response:
    """The answer to the first of these tokens that is not refused."""
    for token in tokens:
        headers = {"authorization": f"Bearer {token}"}
        answer = await client.post(f"{keyring.server}/device/provision/refresh-credential", json=body, headers=headers)
        if answer.status_code != 401:
            break
    return answer


def _has_no_future(answer: httpx.Response, coming: NextCredential) -> bool:
    """The hub says so itself, of this very credential: a stray 404 in between could cost the box its only one."""
    if answer.status_code not in (404, 409):
        return False
    try:
        return bool(answer.json()["details"]["credential_id"] == coming.credential_id)
    except (ValueError, KeyError, TypeError):
        return False


def _require_success(answer: httpx.Response) -> None:
    if answer.status_code == 429 or answer.status_code >= 500:
        answer.raise_for_status()
    if answer.status_code >= 400:
        raise RotationRefused(f"the hub answers {answer.status_code}")
