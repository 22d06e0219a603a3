"""Passwords: how they are hashed, and which are too easily guessed to be set."""

import asyncio
import base64
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pwdlib.hashers.argon2 import Argon2Hasher

from soundbox_server.errors import ValidationFailed, WeakPassword

Result = TypeVar("Result")

SHORTEST, LONGEST = 12, 256
MOST_BESIDE = 3  # letters beside common words that do not make a password of them
SHORTEST_NUMBER = 16  # telephone numbers, dates and what is counted up are shorter
# A hash takes 64 MiB and all it can get of a core: at most two at once, and never on the event loop.
_hashing = ThreadPoolExecutor(2, thread_name_prefix="argon2")


class Passwords:
    """argon2id with these parameters. Each call takes 0.1 s and more: make it with `in_thread`."""

    def __init__(self, *, memory_kib: int = 65_536, time_cost: int = 3, parallelism: int = 4) -> None:
        self._argon2 = Argon2Hasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=parallelism)
        # The hash of a password that nobody has: unknown people cost as much time as known ones.
        salt, digest = (base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode() for size in (16, 32))
        self._nobody = f"$argon2id$v=19$m={memory_kib},t={time_cost},p={parallelism}${salt}${digest}"

    def hash(self, password: str) -> str:
        return self._argon2.hash(password)

    def fits(self, password: str, hashed: str | None) -> bool:
        """Takes the same time whether somebody has this hash or nobody does."""
        fits = self._argon2.verify(password, hashed or self._nobody)
        return fits and hashed is not None

    def is_stale(self, hashed: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._argon2.check_needs_rehash(hashed)


async def in_thread(work: Callable[..., Result], *args: object) -> Result:
    return await asyncio.get_running_loop().run_in_executor(_hashing, work, *args)


# What guessing begins with, here and elsewhere. A password that holds nothing else is refused, whatever digits and
# signs stand around it: there are no rules of composition, which only make people write `Password123!`.
_WORDS = """
password passwort passwd pass word qwerty qwertyuiop asdfghjkl asdf zxcvbnm zxcvbn qazwsx letmein welcome admin
administrator root user login guest master super secret changeme change default access test testing demo sample
iloveyou love you princess monkey dragon football baseball sunshine shadow superman batman michael jordan summer
winter spring autumn hello freedom whatever trustno computer internet google facebook samsung katasandi sandi
rahasia sayang sayangku cinta cintaku bismillah alhamdulillah assalamualaikum indonesia jakarta bandung surabaya
merdeka garuda pancasila selamat terimakasih keluarga anakku mama papa rumah kasir warung toko soundbox qris
merchant payment operator finance support platform owner staff bank partner abc abcd xyz one two
"""
_COMMON = frozenset(_WORDS.split())
_LEET = str.maketrans("013457@$!", "oleastasi")
_WALKS = tuple(
    walk + walk[::-1]
    for walk in (
        "abcdefghijklmnopqrstuvwxyz" * 2, "01234567890123456789", "qwertyuiop[]asdfghjkl;'zxcvbnm,./",
        "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/", "1q2w3e4r5t6y7u8i9o0p",
    )
)  # fmt: skip


def require_strong(password: str, *, email: str, name: str) -> None:
    """Raises WeakPassword for a password that somebody would guess, ValidationFailed for one of another length than is
    asked for. Nothing else is demanded."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise ValidationFailed(f"A password has {SHORTEST} to {LONGEST} characters.", field="password")
    plain = password.casefold()
    if _repeats(plain) or any(plain in walk for walk in _WALKS):
        raise WeakPassword("This password is a pattern that is easily guessed.", field="password")
    signs = [sign for sign in plain if sign.isalnum()]
    if len(signs) < SHORTEST_NUMBER and all(sign.isdigit() for sign in signs):
        raise WeakPassword("A number of this length is easily guessed.", field="password")
    own = {word for word in re.split(r"[^\w]+", f"{email} {name}".casefold()) if len(word) >= 3}
    if _is_words(plain, own | _COMMON):
        raise WeakPassword("This password is made of words that are guessed first.", field="password")


def _repeats(plain: str) -> bool:
    """One to four characters, over and over."""
    return any(plain == (plain[:size] * len(plain))[: len(plain)] for size in range(1, 5))


def _is_words(plain: str, words: set[str] | frozenset[str]) -> bool:
    """Whether it is some of these words, also spelled with digits for letters, and hardly a letter beside them."""
    longest_first = re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)))
    for spelled in (plain, plain.translate(_LEET)):
        found = {at for match in longest_first.finditer(spelled) for at in range(*match.span())}
        if found and sum(sign.isalpha() for at, sign in enumerate(plain) if at not in found) <= MOST_BESIDE:
            return True
    return False
