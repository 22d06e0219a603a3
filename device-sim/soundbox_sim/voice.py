"""The box's voice: a sentence becomes a WAV file, and a sound where there is something to play it on.

espeak-ng is called directly: the samples are in memory before a file exists, so an empty one can be told at once.
pyttsx3 drives the same library through an event loop of its own, writes the file itself and prints to standard output.
"""

import array
import asyncio
import contextlib
import ctypes
import ctypes.util
import shutil
import sys
import tempfile
import threading
import time
import uuid
import wave
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import espeakng_loader

from soundbox_sim.box import Language, Speak

ATTEMPTS = 3
KEPT_WAVS = 500
UNFINISHED_S = 60.0  # no recording takes so long to write
SHORTEST_S = 0.3
QUIETEST = 500  # Of 32,767: below this nobody hears anything.
LONGEST_DATA_PATH = 130  # espeak-ng keeps its data's path in 160 bytes and cuts what is longer.

_ESPEAK_SYNCHRONOUS = 2
_ESPEAK_DO_NOT_EXIT = 0x8000
_ESPEAK_UTF8 = 1
_SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_PLAYERS = (("aplay", "-q"), ("paplay",), ("pw-play",), ("afplay",))

_speaking = threading.Lock()  # The library has one voice per process, whatever the number of boxes.


class AudioFault(RuntimeError):
    """The box could not make itself heard."""


@dataclass(frozen=True, slots=True)
class Sound:
    """Mono, 16 bits, native byte order."""

    rate_hz: int
    samples: bytes

    @property
    def seconds(self) -> float:
        return len(self.samples) / 2 / self.rate_hz

    @property
    def peak(self) -> int:
        samples = memoryview(self.samples).cast("h")
        return max(max(samples, default=0), -min(samples, default=0))


class Voice(Protocol):
    """Says a sentence and returns once it has been said."""

    async def say(self, speech: Speak) -> str | None:
        """The path of the recording, if there is one. Raises AudioFault."""


class SilentVoice:
    """Says everything at once and to nobody, and remembers it."""

    def __init__(self) -> None:
        self.said: list[Speak] = []

    async def say(self, speech: Speak) -> str | None:
        self.said.append(speech)
        return None


class WavVoice:
    """One file per sentence in `folder`; the oldest beyond `kept` go. With a `player` each is also heard."""

    def __init__(
        self,
        folder: Path,
        *,
        player: tuple[str, ...] | None = None,
        kept: int = KEPT_WAVS,
        synthesise: Callable[[str, Language], Sound] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._player, self._kept = folder, player, kept
        self._synthesise = synthesise or synthesise_with_espeak

    async def say(self, speech: Speak) -> str | None:
        path = self._folder / _file_name(speech)
        await asyncio.to_thread(self._record, speech, path)
        if self._player:
            await _play(self._player, path)
        return str(path)

    def _record(self, speech: Speak, path: Path) -> None:
        write_wav(path, _at_volume(self._audible(speech), speech.volume))
        forgotten = time.time() - UNFINISHED_S  # by a process that was killed
        gone = [part for written_at, part in _by_age(self._folder, "*.part") if written_at < forgotten]
        gone += [wav for _, wav in _by_age(self._folder, "*.wav")[: -self._kept]]
        for old in gone:
            old.unlink(missing_ok=True)

    def _audible(self, speech: Speak) -> Sound:
        """The engine now and then returns nothing at all; asking again helps."""
        problem = ""
        for _ in range(ATTEMPTS):
            try:
                sound = self._synthesise(speech.sentence, speech.language)
            except AudioFault as fault:
                problem = str(fault)
                continue
            if sound.seconds >= SHORTEST_S and sound.peak >= QUIETEST:
                return sound
            problem = f"{sound.seconds:.2f} s of sound with a peak of {sound.peak}"
        raise AudioFault(f"{problem}, after {ATTEMPTS} attempts")


def _by_age(folder: Path, pattern: str) -> list[tuple[float, Path]]:
    """The oldest first, each with when it was written. Somebody else may take them away meanwhile."""
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path))
    return sorted(found)


def _at_volume(sound: Sound, percent: int) -> Sound:
    if percent == 100:
        return sound
    samples = array.array("h", sound.samples)
    return Sound(sound.rate_hz, array.array("h", (sample * percent // 100 for sample in samples)).tobytes())


def synthesise_with_espeak(sentence: str, language: Language) -> Sound:
    """Blocks for some milliseconds, outside the interpreter's lock. Raises AudioFault."""
    with _speaking:
        library, rate_hz = _espeak()
        taken = bytearray()

        def take(samples: Any, count: int, _events: Any) -> int:
            if samples and count > 0:
                taken.extend(ctypes.string_at(samples, count * 2))
            return 0

        text, callback = sentence.encode() + b"\0", _SAMPLES(take)
        library.espeak_SetSynthCallback(callback)
        try:
            if library.espeak_SetVoiceByName(language.encode()):
                raise AudioFault(f"espeak-ng has no voice {language!r}")
            if library.espeak_Synth(text, len(text), 0, 1, 0, _ESPEAK_UTF8, None, None):
                raise AudioFault("espeak-ng refused the sentence")
            library.espeak_Synchronize()
        finally:
            library.espeak_SetSynthCallback(_SAMPLES())  # `callback` dies with this call and must not be called again.
        return Sound(rate_hz, bytes(taken))


def write_wav(path: Path, sound: Sound) -> None:
    """Under another name first, of this call alone: whoever sees `path` sees a whole file, however many write it.
    Raises AudioFault."""
    samples = array.array("h", sound.samples)
    if sys.byteorder == "big":
        samples.byteswap()
    unfinished = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part")
    try:
        with unfinished.open("wb") as file, wave.open(file, "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(sound.rate_hz)
            wav.writeframes(samples.tobytes())
        unfinished.replace(path)
    except OSError as problem:
        unfinished.unlink(missing_ok=True)
        raise AudioFault(f"the recording could not be written: {problem}") from problem


def find_player() -> tuple[str, ...] | None:
    """A command that plays a WAV file, or None where nothing would be heard."""
    if sys.platform.startswith("linux") and not any(Path("/dev/snd").glob("pcm*p")):
        return None
    return next((player for player in _PLAYERS if shutil.which(player[0])), None)


async def _play(player: tuple[str, ...], path: Path) -> None:
    try:
        child = await asyncio.create_subprocess_exec(*player, str(path), stdout=asyncio.subprocess.DEVNULL)
    except OSError as problem:
        raise AudioFault(f"{player[0]} did not start: {problem}") from problem
    try:
        code = await child.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        await child.wait()
        raise
    if code:
        raise AudioFault(f"{player[0]} ended with {code}")


def _file_name(speech: Speak) -> str:
    if speech.event_id is None:
        return "notice.wav"
    return f"{speech.event_id}.wav" if speech.seq is None else f"{speech.seq:06d}-{speech.event_id}.wav"


@cache
def _espeak() -> tuple[ctypes.CDLL, int]:
    """The library and its sample rate. The one from the wheel first, so that a box sounds the same everywhere."""
    for load in (_from_wheel, _from_system):
        try:
            library, data = load()
        except OSError:
            continue  # Built for another kind of machine, or not there: the next one may do.
        _declare(library)
        rate_hz = library.espeak_Initialize(_ESPEAK_SYNCHRONOUS, 0, data, _ESPEAK_DO_NOT_EXIT)
        if rate_hz > 0:
            return library, rate_hz
    raise AudioFault("no working espeak-ng: neither from the package espeakng-loader nor from the system")


def _from_wheel() -> tuple[ctypes.CDLL, bytes]:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    return library, str(_short_path(Path(espeakng_loader.get_data_path()))).encode()


def _from_system() -> tuple[ctypes.CDLL, None]:
    name = ctypes.util.find_library("espeak-ng")
    if name is None:
        raise OSError("no espeak-ng on this system")
    return ctypes.CDLL(name), None


def _short_path(data: Path) -> Path:
    """espeak-ng reads its data while it speaks, so a short name has to live as long as the process."""
    if len(str(data)) <= LONGEST_DATA_PATH:
        return data
    link = Path(_short_names().name) / data.name
    link.symlink_to(data, target_is_directory=True)
    return link


@cache
def _short_names() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="soundbox-voice-")


def _declare(library: ctypes.CDLL) -> None:
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_SetSynthCallback.argtypes = [_SAMPLES]
    library.espeak_SetSynthCallback.restype = None
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
