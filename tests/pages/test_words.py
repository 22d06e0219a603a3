"""Everything that people read is there in both languages, and nothing that nobody reads any more."""

from importlib import resources

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from soundbox_server.pages.words import LANGUAGES, day_and_time, language_of, rupiah, translations

PAGES = resources.files("soundbox_server.pages")
METHODS = [("**/templates/**.html", "jinja2.ext.babel_extract"), ("**.py", "python")]


def _written() -> set[str]:
    return {str(found[2]) for found in extract_from_dir(str(PAGES), METHODS, options_map={}) if found[2]}


def _catalog(language: str) -> Catalog:
    with (PAGES / "locales" / f"{language}.po").open("rb") as lines:
        return read_po(lines, locale=language, abort_invalid=True)


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_every_text_is_translated_and_none_is_left_over(language: str) -> None:
    told = {str(message.id): str(message.string) for message in _catalog(language) if message.id}

    assert set(told) == _written()
    assert all(told.values())
    assert not any(message.fuzzy for message in _catalog(language))


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_a_translation_has_the_same_places_for_facts(language: str) -> None:
    for message in _catalog(language):
        assert not list(message.check(_catalog(language))), message.id


def test_what_is_compiled_is_what_is_said() -> None:
    assert translations("id").gettext("Paid") == "Lunas"
    assert translations("en").gettext("Paid") == "Paid"


@pytest.mark.parametrize(
    ("wanted", "accepted", "language"),
    [
        (("en", "id"), "id", "en"),
        ((None, "id"), "en", "id"),
        (("fr",), "fr,en;q=0.5,id;q=0.9", "id"),
        ((), "en-US,en;q=0.9", "en"),
        ((), "en;q=0,id;q=0.1", "id"),
        ((), "de,*;q=oops", "id"),
        ((), "", "id"),
    ],
)
def test_the_language_is_the_one_asked_for_then_the_browser_s(
    wanted: tuple[str | None, ...], accepted: str, language: str
) -> None:
    assert language_of(*wanted, accepted=accepted) == language


def test_rupiah_are_never_rounded_shortened_or_torn_apart() -> None:
    assert rupiah(50_000) == "Rp\N{NO-BREAK SPACE}50.000"
    assert rupiah(-1_234_567) == "\N{MINUS SIGN}Rp\N{NO-BREAK SPACE}1.234.567"
    assert rupiah(0) == "Rp\N{NO-BREAK SPACE}0"


def test_a_time_names_its_zone() -> None:
    assert day_and_time(1_779_530_400_000) == "2026-05-23 17:00:00 WIB"
