"""A statement's lines, whatever its provider calls its columns, and its mistakes by their lines."""

import io
from typing import Any

import pytest

from soundbox_server.devices.bulk import FileRefused
from soundbox_server.reconciliation import reading
from soundbox_server.reconciliation.reading import Columns, Line, check, read
from soundbox_server.reconciliation.state import LineKind

PLAIN = Columns(amount="Gross", reference="Order")
FULL = Columns(
    amount="Nominal", reference="Order", provider_reference="ID", rrn="RRN", fee="MDR", at="Waktu", kind="Jenis",
    payments=("BAYAR",), refunds=("KEMBALI",), ignored=("CAIR",), delimiter=";", decimal_mark=",",
    time_form="%d/%m/%Y %H:%M:%S", lines_before_head=2,
)  # fmt: skip


def lines(text: str | bytes, columns: Columns = PLAIN) -> list[Any]:
    return list(read(io.BytesIO(text if isinstance(text, bytes) else text.encode()), columns))


def test_columns_are_found_by_their_names_and_others_do_not_matter() -> None:
    (line,) = lines("Note,Gross,Order\nhello,50000,ref_1\n")

    assert line == Line(
        line=2, kind=LineKind.PAYMENT, reference="ref_1", provider_reference=None, rrn=None, amount=50_000, fee=None,
        at_ms=None,
    )  # fmt: skip


def test_a_statement_as_a_spreadsheet_in_indonesian_writes_it() -> None:
    text = (
        "\ufeffLaporan harian\n\nOrder;ID;RRN;Nominal;MDR;Waktu;Jenis\n"
        "'ref_1;tx_1;61421;Rp 1.050.000,00;7.350;23/05/2026 17:00:00;bayar\n"
        "\n"
        ";tx_2;;-20.000;;;KEMBALI\n"
        "x;y;z;bukan angka;;;CAIR\n"
    )

    paid, back = lines(text, FULL)

    assert (paid.reference, paid.provider_reference, paid.rrn) == ("ref_1", "tx_1", "61421")
    assert (paid.line, paid.kind, paid.amount, paid.fee) == (4, LineKind.PAYMENT, 1_050_000, 7_350)
    assert paid.at_ms == 1_779_530_400_000  # 10:00 UTC
    assert (back.line, back.kind, back.amount, back.fee, back.at_ms) == (6, LineKind.REFUND, 20_000, None, None)


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("", [(1, None, "NO_HEAD")]),
        ("Gross\n1\n", [(1, "Order", "COLUMN_MISSING")]),
        ("Gross,Order,Gross\n", [(1, "Gross", "COLUMN_TWICE")]),
        ("Gross,Order\n1,a\n2\n3,c\n4,d,e\n", [(3, None, "WRONG_FIELD_COUNT"), (5, None, "WRONG_FIELD_COUNT")]),
        ("Gross,Order\n1,\n", [(2, "Order", "MISSING")]),
        ("Gross,Order\n1,two words\n", [(2, "Order", "INVALID")]),
        ("Gross,Order\n0,a\n", [(2, "Gross", "INVALID_AMOUNT")]),
        ("Gross,Order\n1.5,a\n", [(2, "Gross", "INVALID_AMOUNT")]),
        ("Gross,Order\n-50000,a\n", [(2, "Gross", "INVALID_AMOUNT")]),
        ("Gross,Order\n50.00,a\n1e5,a\n", [(3, "Gross", "INVALID_AMOUNT")]),
        ('Gross,Order\n"1\n', [(2, None, "NOT_CSV")]),
        (b"Gross,Order\n1,a\n1,\xff\n", [(3, None, "NOT_UTF8")]),
        ('Gross,Order\n"1\n",a\n2,\x00\n', [(4, "Order", "INVALID")]),
    ],
)  # fmt: skip
def test_mistakes_are_named_by_their_line(text: str | bytes, mistakes: list[tuple[int, str | None, str]]) -> None:
    found = [one for one in lines(text) if not isinstance(one, Line)]

    assert [(one.line, one.column, one.code) for one in found] == mistakes


def test_thousands_are_not_taken_for_cents() -> None:
    """50.000 is fifty thousand where the mapping says so, and fifty with three noughts behind it where it does not."""
    marked = Columns(amount="Gross", reference="Order", decimal_mark=",")

    assert [one.amount for one in lines("Gross,Order\n50.000,a\n", marked)] == [50_000]
    assert [one.code for one in lines("Gross,Order\n50.000,a\n")] == ["INVALID_AMOUNT"]


@pytest.mark.parametrize("word", ["", "PAID"])
def test_a_word_that_the_mapping_does_not_know_is_a_mistake(word: str) -> None:
    columns = Columns(amount="A", reference="R", kind="K", payments=("PAYMENT",))

    assert [one.code for one in lines(f"A,R,K\n1,a,{word}\n", columns)] == ["UNKNOWN_KIND"]


@pytest.mark.parametrize("at", ["yesterday", "2026-02-30T00:00:00Z", "1969-12-31T23:59:59Z", "99999-01-01"])
def test_a_time_that_is_none_is_a_mistake(at: str) -> None:
    columns = Columns(amount="A", reference="R", at="T")

    assert [one.code for one in lines(f"A,R,T\n1,a,{at}\n", columns)] == ["INVALID_TIME"]


def test_a_file_is_refused_with_its_first_mistakes_and_never_read_further() -> None:
    with pytest.raises(FileRefused) as refused:
        check(io.BytesIO(b"Gross,Order\n" + b"x,y\n" * 1_000), PLAIN)
    with pytest.raises(FileRefused) as empty:
        check(io.BytesIO(b"Gross,Order\n"), PLAIN)

    assert len(refused.value.errors or ()) == reading.MOST_MISTAKES
    assert [one["code"] for one in empty.value.errors or ()] == ["NO_ROWS"]


def test_a_file_has_so_many_lines_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_LINES", 3)

    assert check(io.BytesIO(b"Gross,Order\n" + b"1,y\n" * 3), PLAIN) == 3
    with pytest.raises(FileRefused):
        check(io.BytesIO(b"Gross,Order\n" + b"1,y\n" * 4), PLAIN)
