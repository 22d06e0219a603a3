"""Access tokens: which key proves them, and which headers never do."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.hub import open_hub

from soundbox_server import seal
from soundbox_server.access.service import Principal, access_token, key_id, public_keys, session_of_token
from soundbox_server.errors import Unauthenticated

SOMEONE = Principal(person_id="per_1", organisation_id="org_1", role="operator", session_id="ses_1")


def claims(**other: Any) -> dict[str, Any]:
    now_s = int(time.time())
    return {
        "iss": "soundbox", "aud": "soundbox-api", "sub": "per_1", "org": "org_1", "role": "operator", "sid": "ses_1",
        "iat": now_s, "nbf": now_s, "exp": now_s + 600, "jti": "x",
    } | other  # fmt: skip


def made(key: Ed25519PrivateKey, said: dict[str, Any], **headers: Any) -> str:
    return jwt.encode(said, key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": key_id(key)} | headers)


def is_refused(token: str, *keys: Ed25519PrivateKey) -> bool:
    try:
        session_of_token(token, keys=public_keys(keys))
    except Unauthenticated:
        return True
    return False


def test_a_token_says_whose_session_it_is() -> None:
    key = Ed25519PrivateKey.generate()
    token = access_token(SOMEONE, key=key, now_s=int(time.time()), life_s=600)

    assert session_of_token(token, keys=public_keys([key])) == "ses_1"
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "at+jwt", "kid": key_id(key)}


def test_the_key_before_proves_tokens_for_as_long_as_it_is_held() -> None:
    before, today = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    token = access_token(SOMEONE, key=before, now_s=int(time.time()), life_s=600)

    assert not is_refused(token, today, before)
    assert is_refused(token, today)


@pytest.mark.parametrize("pointer", ["jku", "x5u", "jwk"])
def test_a_token_does_not_bring_its_own_key(pointer: str) -> None:
    ours, theirs = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public = base64.urlsafe_b64encode(theirs.public_key().public_bytes_raw()).rstrip(b"=").decode()
    brought = {"kty": "OKP", "crv": "Ed25519", "x": public}
    value: object = brought if pointer == "jwk" else "https://keys.example/jwks.json"

    assert is_refused(made(theirs, claims(), **{pointer: value}), ours)
    assert is_refused(made(theirs, claims(), kid=key_id(ours), **{pointer: value}), ours)
    assert not is_refused(made(ours, claims(), **{pointer: value}), ours)  # looked over, as if it were not there


def test_what_is_said_is_checked() -> None:
    key, now_s = Ed25519PrivateKey.generate(), int(time.time())
    wrong = [
        claims(iss="else"), claims(aud="else"), claims(exp=now_s - 31), claims(nbf=now_s + 60), claims(iat=now_s + 60),
        *({name: value for name, value in claims().items() if name != missing} for missing in claims()),
    ]  # fmt: skip

    assert not is_refused(made(key, claims()), key)
    assert not is_refused(made(key, claims(exp=now_s - 25)), key)  # clocks differ
    for said in wrong:
        assert is_refused(made(key, said), key), said
    assert is_refused(made(key, claims(), typ="JWT"), key)


def test_no_other_algorithm_is_accepted() -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    symmetric = jwt.encode(claims(), public, algorithm="HS256", headers={"typ": "at+jwt", "kid": key_id(key)})
    header = {"alg": "none", "typ": "at+jwt", "kid": key_id(key)}
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims()))

    assert is_refused(symmetric, key)
    assert is_refused(".".join([*parts, ""]), key)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_tokens_of_the_key_before_get_in_until_it_is_forgotten(database_url: str, tmp_path: Path) -> None:
    old, new = seal.new_key(), seal.new_key()
    async with open_hub(database_url, tmp_path / "home", token_signing_keys=old) as hub:
        headers = hub.operator()
    answers = []
    for keys in (f"{new},{old}", new, ""):
        async with open_hub(database_url, tmp_path / "home", token_signing_keys=keys) as hub:
            answers.append((await hub.http.get("/admin/me", headers=headers)).status_code)

    assert answers == [200, 401, 401]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_master_key_that_leaked_signs_for_nobody(database_url: str, tmp_path: Path) -> None:
    leaked, new = seal.new_key(), seal.new_key()
    async with open_hub(database_url, tmp_path / "home", master_key=leaked) as hub:
        headers = hub.operator()
    async with open_hub(database_url, tmp_path / "home", master_key=new, master_key_previous=leaked) as hub:
        answered = await hub.http.get("/admin/me", headers=headers)

    assert answered.status_code == 401
