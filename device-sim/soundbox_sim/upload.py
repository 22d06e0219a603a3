"""The whole log on its way to the hub, in pieces that a small module can hold."""

import hashlib

import httpx

from soundbox_sim.rotation import Keyring

PIECE_BYTES = 8_192
TRIES = 5  # of a piece that the hub wants from elsewhere, or has no time for


async def send_log(keyring: Keyring, client: httpx.AsyncClient, command_id: str, content: bytes) -> str | None:
    """Send it piece by piece, going on where the hub says it is. None when the hub has it whole, else why not. Raises
    httpx.HTTPError when nobody answers."""
    sha256 = hashlib.sha256(content).hexdigest()
    named: dict[str, str | int] = {"command_id": command_id, "size": len(content), "sha256": sha256}
    offset, failures = 0, 0
    while True:
        piece = content[offset : offset + PIECE_BYTES]
        answer = await _post(keyring, client, piece, named | {"offset": offset})
        if answer.status_code == 200:
            said = answer.json()["data"]
            if said["status"] != "receiving":
                return None if said["status"] == "whole" else str(said["status"])
            offset = int(said["received_bytes"])
            continue
        failures += 1
        if answer.status_code not in (409, 429, 503) or failures > TRIES:
            return f"the hub answers {answer.status_code}"
        offset = int(answer.json().get("details", {}).get("received_bytes", offset))


async def _post(
    keyring: Keyring, client: httpx.AsyncClient, piece: bytes, named: dict[str, str | int]
) -> httpx.Response:
    for token in keyring.tokens:
        headers = {"authorization": f"Bearer {token}", "content-type": "application/octet-stream"}
        answer = await client.post(f"{keyring.server}/device/logs", params=named, content=piece, headers=headers)
        if answer.status_code != 401:
            break
    return answer
