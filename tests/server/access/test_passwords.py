"""Which passwords can be set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_server.access.passwords import Passwords, require_strong
from soundbox_server.errors import ValidationFailed, WeakPassword

EMAIL, NAME = "siti.rahma@warungsari.test", "Siti Rahma"


def is_refused(password: str) -> bool:
    try:
        require_strong(password, email=EMAIL, name=NAME)
    except (ValidationFailed, WeakPassword):
        return True
    return False


@pytest.mark.parametrize(
    "password",
    [
        "short", "elevenchars", "x" * 257, "aaaaaaaaaaaa", "abababababab", "123123123123", "xyz!xyz!xyz!xyz",
        "qwertyuiop[]", "123456789012", "zyxwvutsrqpo", "1qaz2wsx3edc", "passwordpassword", "Password1234!",
        "P@ssw0rd123456", "administrator1", "iloveyou123456", "soundbox-demo-2026", "Indonesia1945!", "081234567890",
        "siti.rahma@warungsari.test", "SitiRahma2026!", "warungsari1234", "bismillah786786", "sayangku123456",
        "letmein letmein", "qwerty123456789",
    ],
)  # fmt: skip
def test_what_is_guessed_first_is_refused(password: str) -> None:
    assert is_refused(password)


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple", "kuda putih tujuh awan", "ini kalimat panjang saja", "Tr0ub4dor&3-Tr0mbone",
        "my password is a giraffe", "8391 2047 5561 7720", "8391204755617720", "密码密码马电池订书钉正确的九",
        "x9$Kd02;mQz!",
    ],
)  # fmt: skip
def test_anything_long_enough_that_is_not_is_taken_whatever_it_is_made_of(password: str) -> None:
    assert not is_refused(password)


@given(st.text(max_size=300))
def test_length_is_demanded_of_every_text_and_no_text_breaks_the_look(password: str) -> None:
    assert is_refused(password) or 12 <= len(password) <= 256


def test_a_hash_fits_its_password_and_tells_when_it_is_old() -> None:
    floor = Passwords(memory_kib=19_456, time_cost=2, parallelism=1)
    stronger = Passwords(memory_kib=19_456, time_cost=3, parallelism=1)
    hashed = floor.hash("kuda putih tujuh awan")

    assert floor.fits("kuda putih tujuh awan", hashed)
    assert not floor.fits("kuda putih tujuh awam", hashed)
    assert stronger.fits("kuda putih tujuh awan", hashed)
    assert (floor.is_stale(hashed), stronger.is_stale(hashed)) == (False, True)
