import asyncio
import os
import subprocess
import sys
import wave
from pathlib import Path

import espeakng_loader
import pytest

from soundbox_protocol.speech import payment_sentence
from soundbox_sim.box import Language, Speak
from soundbox_sim.voice import ATTEMPTS, AudioFault, SilentVoice, Sound, WavVoice, synthesise_with_espeak, write_wav

SILENCE, TONE = Sound(8_000, bytes(16_000)), Sound(8_000, b"\x00\x40\x00\xc0" * 4_000)


def speech(seq: int = 7, sentence: str = "Pembayaran diterima, lima puluh ribu rupiah") -> Speak:
    return Speak(f"ann_{seq}", seq, sentence, (), "id")


@pytest.mark.parametrize("language", ["id", "en"])
def test_an_announcement_is_as_long_as_somebody_speaking_and_can_be_heard(language: Language) -> None:
    short = synthesise_with_espeak(payment_sentence(5_000, language), language)
    long = synthesise_with_espeak(payment_sentence(987_654_321, language), language)

    assert 1.5 < short.seconds < 5
    assert short.seconds + 2 < long.seconds < 20
    assert short.peak > 5_000


def test_the_two_languages_do_not_sound_alike() -> None:
    indonesian, english = (synthesise_with_espeak("dua ratus rupiah", language) for language in ("id", "en"))

    assert indonesian.samples != english.samples


async def test_a_recording_is_a_whole_wav_file_named_after_its_announcement(tmp_path: Path) -> None:
    path = await WavVoice(tmp_path).say(speech())

    assert path == str(tmp_path / "000007-ann_7.wav")
    with wave.open(path) as wav:
        assert (wav.getnchannels(), wav.getsampwidth()) == (1, 2)
        assert 1.5 < wav.getnframes() / wav.getframerate() < 5
    assert [file.name for file in tmp_path.iterdir()] == ["000007-ann_7.wav"]


async def test_many_boxes_share_one_voice_without_mixing_their_words(tmp_path: Path) -> None:
    voices = [WavVoice(tmp_path / str(number)) for number in range(3)]
    sentences = [payment_sentence(amount, "id") for amount in (1_000, 22_000, 333_000)]
    alone = [synthesise_with_espeak(sentence, "id").seconds for sentence in sentences]
    said = [(voice, number) for _ in range(5) for number, voice in enumerate(voices)]
    paths = await asyncio.gather(*(voice.say(speech(number, sentences[number])) for voice, number in said))

    for (_, number), path in zip(said, paths, strict=True):
        assert path
        with wave.open(path) as wav:
            assert wav.getnframes() / wav.getframerate() == pytest.approx(alone[number], abs=0.2)


async def test_an_empty_sound_is_asked_for_again(tmp_path: Path) -> None:
    answers = iter([SILENCE, Sound(8_000, b""), TONE])
    path = await WavVoice(tmp_path, synthesise=lambda _sentence, _language: next(answers)).say(speech())

    assert path
    with wave.open(path) as wav:
        assert wav.getnframes() == 8_000


async def test_a_voice_that_stays_silent_is_a_fault_and_leaves_no_file(tmp_path: Path) -> None:
    asked: list[str] = []

    def mute(sentence: str, _language: Language) -> Sound:
        asked.append(sentence)
        return SILENCE

    with pytest.raises(AudioFault, match="peak of 0"):
        await WavVoice(tmp_path, synthesise=mute).say(speech())
    assert len(asked) == ATTEMPTS
    assert list(tmp_path.iterdir()) == []


async def test_a_broken_engine_is_a_fault(tmp_path: Path) -> None:
    def broken(_sentence: str, _language: Language) -> Sound:
        raise AudioFault("no library")

    with pytest.raises(AudioFault, match="no library, after 3 attempts"):
        await WavVoice(tmp_path, synthesise=broken).say(speech())


def test_a_recording_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(AudioFault, match="could not be written"):
        write_wav(tmp_path / "missing" / "a.wav", TONE)


async def test_only_the_newest_recordings_are_kept(tmp_path: Path) -> None:
    voice = WavVoice(tmp_path, kept=2, synthesise=lambda _sentence, _language: TONE)
    for seq in range(1, 5):
        path = await voice.say(speech(seq))
        assert path
        os.utime(path, (seq, seq))

    assert sorted(file.name for file in tmp_path.iterdir()) == ["000003-ann_3.wav", "000004-ann_4.wav"]


async def test_a_sentence_said_by_many_at_once_is_whole_for_each(tmp_path: Path) -> None:
    tones = {volume: Speak("ann_1", 1, "", (), "id", volume=volume) for volume in (50, 100)}
    voices = [WavVoice(tmp_path, kept=1, synthesise=lambda _sentence, _language: TONE) for _ in range(4)]

    await asyncio.gather(*(voice.say(tones[volume]) for voice in voices for volume in (50, 100) * 25))

    assert [file.name for file in tmp_path.iterdir()] == ["000001-ann_1.wav"]
    with wave.open(str(tmp_path / "000001-ann_1.wav")) as wav:
        assert wav.getnframes() == 8_000


async def test_what_a_killed_process_left_unfinished_goes(tmp_path: Path) -> None:
    left, beside = tmp_path / "old.part", tmp_path / "new.part"
    left.touch()
    beside.touch()
    os.utime(left, (1, 1))

    await WavVoice(tmp_path, synthesise=lambda _sentence, _language: TONE).say(speech())

    assert (left.exists(), beside.exists()) == (False, True)


async def test_a_player_hears_the_file_and_its_failure_is_a_fault(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    player = (sys.executable, "-c", "import sys, shutil; shutil.copy(sys.argv[1], sys.argv[0] or '.')")
    copying = (sys.executable, "-c", f"import sys, shutil; shutil.copy(sys.argv[1], {str(heard)!r})")
    tone = {"synthesise": lambda _sentence, _language: TONE}
    path = await WavVoice(tmp_path / "wav", player=copying, **tone).say(speech())

    assert path
    assert heard.read_bytes() == Path(path).read_bytes()
    with pytest.raises(AudioFault, match="ended with"):
        await WavVoice(tmp_path / "wav", player=(*player[:1], "-c", "raise SystemExit(3)"), **tone).say(speech())
    with pytest.raises(AudioFault, match="did not start"):
        await WavVoice(tmp_path / "wav", player=("/no/such/player",), **tone).say(speech())


async def test_a_silent_voice_remembers_what_it_was_asked_to_say() -> None:
    voice = SilentVoice()

    assert await voice.say(speech()) is None
    assert voice.said == [speech()]


def test_the_voice_works_from_a_folder_with_a_very_long_name(tmp_path: Path) -> None:
    """espeak-ng cuts the path of its data at 160 bytes, and a checkout may well lie deeper than that."""
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    (deep / "espeakng_loader").symlink_to(Path(espeakng_loader.__file__).parent, target_is_directory=True)
    script = (
        "from soundbox_sim import voice; voice._from_system = None; "  # The wheel's own voice or none.
        "print(voice.synthesise_with_espeak('satu dua tiga', 'id').seconds)"
    )
    here = os.pathsep.join([str(deep), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": here},
        capture_output=True,
        text=True,
        check=True,
    )

    assert 0.5 < float(done.stdout) < 3
