"""The QRIS codec against every vector, and against anything a printer, a camera or a stranger may produce."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from soundbox_server.payments import qris
from soundbox_server.payments.qris import MerchantAccount, Qris, QrisRefused

FIXTURE = json.loads((Path(__file__).parents[2] / "fixtures/qris_vectors.json").read_text())
VECTORS: list[dict[str, Any]] = FIXTURE["vectors"]
PAIRS: list[dict[str, Any]] = FIXTURE["static_to_dynamic"]
STRICT = [vector for vector in VECTORS if vector["strict_qris_ok"]]
STATIC = next(vector["payload"] for vector in VECTORS if vector["id"] == "Q54")

printable = st.text(string.ascii_letters + string.digits + " .,'&/-", min_size=1, max_size=25).filter(
    lambda text: text == text.strip()
)


def shop(**changes: Any) -> Qris:
    """A QRIS without fault, of nobody's bank."""
    fields: dict[str, Any] = {
        "initiation_method": "dynamic",
        "merchant_name": "TOKO UJI",
        "city": "JAKARTA",
        "postal_code": "10110",
        "nmid": "ID1099999999999",
        "merchant_criteria": "UMI",
        "acquirer_domain": "ID.CO.EXAMPLE.WWW",
        "acquirer_merchant_id": "TESTMID0000001",
        "merchant_pan_in_qr": "936009990000000001",
        "mcc": "5411",
        "amount": "25000",
    }
    return Qris(**(fields | changes))


def with_amount(text: str) -> str:
    """A payload with this amount, right checksum included, whatever the amount says."""
    body = qris.encode(shop(amount=None))[:-4].replace("5802ID", f"54{len(text):02d}{text}5802ID")
    return body + qris.crc16(body)


# Vectors


def test_the_fixture_is_complete() -> None:
    assert (len(VECTORS), len(PAIRS)) == (50, 3)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_a_vector_decodes_to_exactly_what_it_says(vector: dict[str, Any]) -> None:
    report = json.loads(json.dumps(qris.report(vector["payload"])))

    assert report == {key: vector[key] for key in ("valid", "strict_qris_ok", "violations", "decoded")}
    assert qris.crc16(vector["payload"][:-4]) == vector["crc_computed"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['amount']}-{pair['tip'] is not None}")
def test_a_static_vector_becomes_its_dynamic_twin(pair: dict[str, Any]) -> None:
    tip = pair["tip"] and [(tag, value) for tag, value in pair["tip"]]

    assert qris.static_to_dynamic(pair["static"], int(pair["amount"]), tip) == pair["expected"]


@pytest.mark.parametrize("vector", STRICT, ids=lambda vector: vector["id"])
def test_what_decode_shows_of_a_faultless_vector_encodes_to_the_same_meaning(vector: dict[str, Any]) -> None:
    again = qris.report(qris.encode_fields(vector["decoded"]))["decoded"]

    assert isinstance(again, dict)
    unlike = {name for name in vector["decoded"] if json.loads(json.dumps(again[name])) != vector["decoded"][name]}
    # Q07 stands in an unusual order and has a blank after its name, which takes its checksum along.
    assert unlike == ({"tag_order", "crc"} if vector["id"] == "Q07" else set())


@pytest.mark.parametrize(("text", "crc"), FIXTURE["crc_algorithm"]["check"].items())
def test_the_checksum_is_the_one_of_the_standard(text: str, crc: str) -> None:
    assert qris.crc16(text) == crc


# Amounts


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1000", 1000), ("1000.", 1000), ("1000.0", 1000), ("1000.00", 1000), ("1", 1), ("10000000", 10_000_000)],
)
def test_a_legal_amount_is_read_in_whole_rupiah(text: str, amount: int) -> None:
    decoded = qris.decode(with_amount(text))

    assert decoded.strict_qris_ok
    assert qris.amount_idr(decoded) == amount


@pytest.mark.parametrize(
    "text", ["1000.50", "0.99", "1000.01", "0", "0.00", "1,000", "1.000", "-5", "1e3", " 10", "１０"]
)
def test_an_amount_that_nobody_can_pay_is_a_violation_and_never_rounded(text: str) -> None:
    decoded = qris.decode(with_amount(text))

    assert decoded.valid
    assert "AMOUNT_FORMAT" in decoded.violations
    assert qris.amount_idr(decoded) is None


def test_an_amount_above_the_ceiling_is_named() -> None:
    assert qris.decode(with_amount("10000001")).violations == ("AMOUNT_OVER_CEILING",)


def test_an_amount_in_another_currency_is_no_rupiah() -> None:
    dollars = next(vector for vector in VECTORS if vector["id"] == "Q67")

    assert qris.amount_idr(qris.decode(dollars["payload"])) is None


# Reading what was tampered with


def test_something_after_the_checksum_makes_a_payload_invalid() -> None:
    decoded = qris.decode(STATIC + "5405" + "99999")

    assert not decoded.valid
    assert {"TAG63_NOT_LAST", "CRC_MISMATCH"} <= set(decoded.violations)


def test_a_second_checksum_over_an_appended_amount_is_seen_as_a_repeated_tag() -> None:
    body = STATIC + "540599999" + "6304"
    decoded = qris.decode(body + qris.crc16(body))

    assert "TAG_REPEATED" in decoded.violations


def test_a_repeated_amount_counts_as_it_first_stood_and_is_named() -> None:
    body = qris.encode(shop())[:-8] + "540512345" + "6304"
    decoded = qris.decode(body + qris.crc16(body))

    assert decoded.violations == ("TAG_REPEATED",)
    assert qris.amount_idr(decoded) == 25_000


@pytest.mark.parametrize("name", ["WARUNG 5802ID JAYA", "TOKO 6304 ABCD", "6304", "000201010212"])
def test_names_that_look_like_tags_are_only_names(name: str) -> None:
    static = qris.encode(shop(initiation_method="static", amount=None, merchant_name=name))
    decoded = qris.decode(qris.static_to_dynamic(static, 7_500))

    assert decoded.qris is not None
    assert (decoded.qris.merchant_name, qris.amount_idr(decoded)) == (name, 7_500)


@given(st.integers(0, len(STATIC) - 1), st.sampled_from([chr(code) for code in range(32, 127)]))
def test_one_changed_character_is_noticed(position: int, character: str) -> None:
    assume(STATIC[position] != character)
    decoded = qris.decode(STATIC[:position] + character + STATIC[position + 1 :])

    assert not decoded.valid or decoded.violations == ("CRC_LOWERCASE",)


@given(st.text() | st.text("0123456789ID.", max_size=200) | st.text("02", max_size=40))
@example("")
@example("63041D0F")
@example("\ud800")
@example("00\u0660\u0662")
def test_any_text_gets_an_answer(text: str) -> None:
    report = qris.report(text)

    assert report["valid"] is False or report["decoded"] is not None
    assert (report["strict_qris_ok"] is not True) or (report["valid"] is True and report["violations"] == [])


@given(st.lists(st.tuples(st.sampled_from([f"{n:02d}" for n in range(100)]), st.text(max_size=30)), max_size=12))
def test_any_row_of_data_objects_gets_an_answer(objects: list[tuple[str, str]]) -> None:
    body = "000201" + "".join(f"{tag}{len(value):02d}{value}" for tag, value in objects) + "6304"
    decoded = qris.decode(body + qris.crc16(body))

    assert decoded.valid
    assert decoded.qris is not None
    assert decoded.qris.tag_order[1:-1] == tuple(tag for tag, _ in objects)


# Writing


@given(
    name=printable,
    city=printable.map(lambda text: text[:15].strip()).filter(bool),
    postal=st.text(string.digits, min_size=1, max_size=10),
    amount=st.none() | st.integers(1, 10_000_000).map(str),
    criteria=st.sampled_from(sorted(qris.CRITERIA)),
    note=st.none() | printable,
)
def test_what_is_written_reads_back_as_it_was_meant(
    name: str, city: str, postal: str, amount: str | None, criteria: str, note: str | None
) -> None:
    meant = shop(
        merchant_name=name,
        city=city,
        postal_code=postal,
        amount=amount,
        merchant_criteria=criteria,
        additional_data=note and {"05": note},
    )
    payload = qris.encode(meant)
    read = qris.decode(payload)

    assert read.strict_qris_ok
    assert read.qris is not None
    told = ("merchant_name", "city", "postal_code", "amount", "merchant_criteria", "nmid", "mcc", "additional_data")
    assert {key: getattr(read.qris, key) for key in told} == {key: getattr(meant, key) for key in told}
    assert qris.encode(read.qris) == payload


@given(
    st.dictionaries(st.sampled_from([*Qris.__dataclass_fields__, "surprise"]), st.none() | st.text() | st.integers())
)
def test_any_fields_are_written_faultlessly_or_refused(fields: dict[str, Any]) -> None:
    try:
        payload = qris.encode_fields(fields)
    except QrisRefused:
        return
    assert qris.decode(payload).strict_qris_ok


@given(st.text(max_size=60), st.integers(), st.none() | st.lists(st.tuples(st.text(max_size=3), st.text(max_size=5))))
@example(STATIC, 10_000_001, None)
@example(STATIC, 0, None)
@example(STATIC, -1, None)
@example(STATIC, 5_000, [("55", "02")])
@example(STATIC, 5_000, [("59", "ANOTHER SHOP")])
def test_a_conversion_that_cannot_be_is_refused(payload: str, amount: int, tip: list[tuple[str, str]] | None) -> None:
    with pytest.raises(QrisRefused):
        qris.static_to_dynamic(payload, amount, tip)


def test_a_dynamic_qris_gets_no_second_amount() -> None:
    with pytest.raises(QrisRefused):
        qris.static_to_dynamic(qris.encode(shop()), 1_000)


def test_a_lower_case_checksum_is_read_and_never_written() -> None:
    lower = STATIC[:-4] + STATIC[-4:].lower()

    assert qris.decode(lower).violations == ("CRC_LOWERCASE",)
    assert qris.static_to_dynamic(lower, 25_000) == PAIRS[1]["expected"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [("Kafé Ñandú", "Kafe Nandu"), ("Toko “Bu Sri’s” – Jaya", 'Toko "Bu Sri\'s" - Jaya'), ("Smørrebrød", "Smorrebrod")],
)
def test_a_name_is_transliterated_to_printable_ascii(written: str, expected: str) -> None:
    read = qris.decode(qris.encode(shop(merchant_name=written))).qris

    assert read is not None
    assert read.merchant_name == expected


@pytest.mark.parametrize("name", ["咖啡店", "Кафе", "KOPI ☕", "TOKO\nUJI", "A" * 26, "", " "])
def test_a_name_that_cannot_be_written_is_refused(name: str) -> None:
    with pytest.raises(QrisRefused):
        qris.encode(shop(merchant_name=name))


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        ({"merchant_pan_in_qr": "999999999999999999"}, "PAN_NOT_9360_NNS"),
        ({"merchant_criteria": "XXX"}, "CRITERIA_BAD"),
        ({"nmid": "ID123"}, "NMID_BAD"),
        ({"mcc": "54"}, "MCC_BAD"),
        ({"currency": "840"}, "CURRENCY_NOT_360"),
        ({"country": "SG"}, "COUNTRY_NOT_ID"),
        ({"city": "KOTA ADM. JAKART"}, "CITY_OVER_15"),
        ({"city": None}, "CITY_MISSING"),
        ({"merchant_name": None}, "NAME_MISSING"),
        ({"postal_code": "12345678901"}, "POSTAL_CODE_OVER_10"),
        ({"amount": "1000.50"}, "AMOUNT_FORMAT"),
        ({"amount": "10000001"}, "AMOUNT_OVER_CEILING"),
        ({"tip_indicator": "02"}, "TIP_BAD"),
        ({"tip_indicator": "01", "tip_fixed": "500"}, "TIP_BAD"),
        ({"tip_indicator": "03", "tip_percent": "0.00"}, "TIP_BAD"),
        ({"tip_indicator": "03", "tip_percent": "100"}, "TIP_BAD"),
        ({"tip_indicator": "04"}, "TIP_BAD"),
        ({"tip_percent": "5"}, "TIP_BAD"),
        ({"initiation_method": "static", "nmid": None, "amount": None}, "STATIC_WITHOUT_TAG51"),
        ({"additional_data": {"05": "A" * 90}, "merchant_accounts": [MerchantAccount("26", "X" * 99)]}, None),
    ],
)
def test_a_broken_rule_is_refused_by_name(change: dict[str, Any], violation: str | None) -> None:
    with pytest.raises(QrisRefused) as refused:
        qris.encode(shop(**change))

    assert violation is None or violation in refused.value.facts["violations"]  # type: ignore[operator]


@given(st.text(string.digits, min_size=14, max_size=14))
def test_the_missing_luhn_digit_is_added_and_never_demanded(account: str) -> None:
    decoded = qris.decode(qris.encode(shop(merchant_pan_in_qr="9360" + account)))

    assert decoded.qris is not None
    full = decoded.qris.merchant_pan_full_19 or ""
    total = sum(sum(divmod(int(digit) * (1 + index % 2), 10)) for index, digit in enumerate(reversed(full)))
    assert (len(full), total % 10) == (19, 0)
