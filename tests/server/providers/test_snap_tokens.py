"""Tokens that we issue to SNAP partners: known again by any process, for their partner alone and for a while."""

from soundbox_server.providers import snap_tokens
from soundbox_server.providers.snap import TOKEN_LIFE_S

KEY, NOW = bytes(range(32)), 1_779_530_400_000


def knows(token: str, account: str = "acme", *, key: bytes = KEY, after_s: int = 0) -> bool:
    return snap_tokens.knows(key, account, token, now_ms=NOW + after_s * 1000)


def test_a_token_is_known_until_it_ends() -> None:
    token = snap_tokens.issue(KEY, "acme", now_ms=NOW)

    assert knows(token)
    assert knows(token, after_s=TOKEN_LIFE_S - 1)
    assert not knows(token, after_s=TOKEN_LIFE_S)


def test_a_token_is_good_for_its_own_partner_and_under_our_key_alone() -> None:
    token = snap_tokens.issue(KEY, "acme", now_ms=NOW)

    assert not knows(token, "another")
    assert not knows(token, key=bytes(32))


def test_what_we_did_not_issue_is_not_known() -> None:
    token = snap_tokens.issue(KEY, "acme", now_ms=NOW)
    swapped = token[:5] + ("A" if token[5] != "A" else "B") + token[6:]

    assert not any(knows(other) for other in ("", "x", "\u00e9", token[:-2], token + "AAAA", swapped))


def test_no_two_tokens_are_the_same() -> None:
    assert snap_tokens.issue(KEY, "acme", now_ms=NOW) != snap_tokens.issue(KEY, "acme", now_ms=NOW)
