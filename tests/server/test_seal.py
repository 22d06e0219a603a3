import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_server.seal import CannotUnseal, Ring, key_id, parse_master_key, ring, seal, unseal

OLD, NEW, MASTER = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32


@given(plaintext=st.binary(max_size=200), row_id=st.text(max_size=40))
def test_what_was_sealed_for_a_row_opens_for_it(plaintext: bytes, row_id: str) -> None:
    assert unseal(Ring((NEW,)), row_id, seal(Ring((NEW,)), row_id, plaintext)) == plaintext


def test_a_secret_moved_to_another_row_stays_closed() -> None:
    sealed = seal(Ring((NEW,)), "usr_1", b"secret")

    with pytest.raises(CannotUnseal, match="usr_2"):
        unseal(Ring((NEW,)), "usr_2", sealed)


def test_every_altered_bit_is_noticed() -> None:
    prefix, _, body = seal(Ring((NEW,)), "usr_1", b"secret").rpartition(".")
    raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))

    for bit in range(len(raw) * 8):
        altered = bytearray(raw)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CannotUnseal, match="altered"):
            unseal(Ring((NEW,)), "usr_1", f"{prefix}.{base64.urlsafe_b64encode(altered).decode()}")


@pytest.mark.parametrize("text", ["", "secret", "s1.", f"s1.{key_id(NEW)}.", f"s1.{key_id(NEW)}.é", "s2.x.y"])
def test_what_is_no_sealed_text_is_refused(text: str) -> None:
    with pytest.raises(CannotUnseal):
        unseal(Ring((NEW,)), "usr_1", text)


def test_the_same_secret_never_looks_the_same_twice() -> None:
    assert len({seal(Ring((NEW,)), "usr_1", b"secret") for _ in range(50)}) == 50


def test_a_new_key_seals_and_the_old_one_still_opens() -> None:
    before = seal(Ring((OLD,)), "usr_1", b"secret")
    both = Ring((NEW, OLD))

    after = seal(both, "usr_1", b"secret")

    assert unseal(both, "usr_1", before) == b"secret"
    assert after.startswith(f"s1.{key_id(NEW)}.")
    with pytest.raises(CannotUnseal, match="not in the ring"):
        unseal(Ring((OLD,)), "usr_1", after)


def test_what_the_masters_own_key_sealed_opens_after_the_first_sealing_key_is_set() -> None:
    before = seal(ring(MASTER), "usr_1", b"secret")

    assert unseal(ring(MASTER, sealing_keys=[NEW]), "usr_1", before) == b"secret"
    assert unseal(ring(NEW, previous_masters=[MASTER]), "usr_1", before) == b"secret"
    with pytest.raises(CannotUnseal):
        unseal(ring(NEW), "usr_1", before)


def test_a_ring_shows_no_key() -> None:
    shown = repr(Ring((NEW,))) + str(Ring((NEW,)).key_ids)

    assert NEW.hex() not in shown
    assert repr(NEW) not in shown


@pytest.mark.parametrize("keys", [(), (b"short",)])
def test_a_ring_without_whole_keys_is_refused(keys: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Ring(keys)


def test_a_master_key_is_read_with_and_without_padding() -> None:
    text = base64.urlsafe_b64encode(MASTER).decode()

    assert parse_master_key(text) == parse_master_key(text.rstrip("=") + "\n") == MASTER
