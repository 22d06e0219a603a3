"""Fields of partners' JSON: one reading, or none."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_server.errors import ValidationFailed
from soundbox_server.providers import fields, snap_signing, strict_json

NOW_MS = 1_779_530_400_000


@pytest.mark.parametrize(
    ("value", "amount_idr"),
    [(10000, 10000), ("10000", 10000), ("10000.0", 10000), ("10000.00", 10000), (Decimal("1E+4"), 10000), (0, 0),
     ("999999999999.00", 999_999_999_999), (Decimal("10000.00"), 10000)],
)  # fmt: skip
def test_whole_rupiah_are_read(value: object, amount_idr: int) -> None:
    assert fields.rupiah(value) == amount_idr


@pytest.mark.parametrize(
    "value",
    [10000.0, "10000.01", "10000.000", "10,000", "1.000.00", "-1", -1, "1e4", " 1", "1 ", "", None, True, [],
     "1000000000000", 10**12, Decimal("0.5"), Decimal("NaN"), Decimal("Infinity"), Decimal("-1"), "١٢٣", "1\n"],
    ids=repr,
)  # fmt: skip
def test_what_is_not_whole_rupiah_is_refused(value: object) -> None:
    with pytest.raises(ValidationFailed):
        fields.rupiah(value)


@given(st.integers(0, fields.MAX_AMOUNT_IDR))
def test_an_amount_goes_out_and_comes_back_unchanged(amount_idr: int) -> None:
    assert fields.rupiah(fields.two_decimals(amount_idr)) == amount_idr
    assert fields.two_decimals(amount_idr).endswith(".00")


@pytest.mark.parametrize(
    "value",
    ["2026-05-23T10:00:00Z", "2026-05-23T17:00:00+07:00", "2026-05-23T17:00:00.000+07:00", "2026-05-23 17:00:00",
     "2026-05-23T17:00:00", "20260523170000", "1779530400000"],
)  # fmt: skip
def test_a_moment_is_read_in_each_of_its_forms(value: str) -> None:
    assert fields.moment_or_none(value) == NOW_MS


@pytest.mark.parametrize(
    "value", [None, 7, "", "tomorrow", "2026-02-30 17:00:00", "20261323170000", "0000-00-00 00:00:00"]
)
def test_a_moment_that_cannot_be_read_is_none(value: object) -> None:
    assert fields.moment_or_none(value) is None


@given(st.text(max_size=40))
def test_any_text_is_a_moment_or_none(text: str) -> None:
    at_ms = fields.moment_or_none(text)

    assert at_ms is None or at_ms >= 0


def test_jakartas_time_carries_its_offset() -> None:
    assert fields.jakarta_time(NOW_MS) == "2026-05-23T17:00:00+07:00"
    assert fields.jakarta_time(NOW_MS + 7, "milliseconds") == "2026-05-23T17:00:00.007+07:00"


@pytest.mark.parametrize("body", [b"1", b"{}", b"[1", b'[1], "x": [2]', b"[1]} ", b"", b"null", b"\xff"])
def test_a_list_is_a_list_and_nothing_more(body: bytes) -> None:
    with pytest.raises(ValidationFailed):
        strict_json.read_list(body)


def test_numbers_with_a_fraction_stay_exact() -> None:
    assert strict_json.read_list(b"[1, 1.10, 1e2]") == [1, Decimal("1.10"), Decimal("1e2")]
    assert strict_json.read_exact(b'{"a": 0.1}') == {"a": Decimal("0.1")}


json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values), st.sampled_from([None, 2, "\t"]), st.booleans())
def test_minifying_takes_the_space_between_parts_only(
    value: dict[str, object], indent: int | str | None, ascii_only: bool
) -> None:
    spaced = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    short = json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")

    assert snap_signing.minified(spaced) == short
