"""What a statement says, in the shopkeeper's language and in the auditor's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Literal

Language = Literal["id", "en"]

WIB = timezone(timedelta(hours=7), "WIB")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The words of one language. `{n}` stands for a count, `{page}` and `{pages}` for themselves."""

    title: str
    merchant: str
    legal_name: str
    nmid: str
    city: str
    number: str
    day: str
    window: str
    settles_on: str
    status: str
    payout: str
    summary: str
    payments: str
    fees: str
    adjustments: str
    carried_in: str
    carried_out: str
    net: str
    in_words: str
    providers: str
    provider: str
    adjusted: str
    carried: str
    items: str
    no_items: str
    at: str
    kind: str
    transaction: str
    gross: str
    fee: str
    item_net: str
    total: str
    made_at: str
    page: str
    note: str
    states: Mapping[str, str]
    payout_modes: Mapping[str, str]
    kinds: Mapping[str, str]
    months: tuple[str, ...]


TEXTS: Mapping[Language, Texts] = {
    "id": Texts(
        title="Laporan Settlement",
        merchant="Merchant",
        legal_name="Nama badan usaha",
        nmid="NMID",
        city="Kota",
        number="Nomor settlement",
        day="Hari transaksi",
        window="Periode",
        settles_on="Tanggal settlement",
        status="Status",
        payout="Cara pembayaran",
        summary="Ringkasan",
        payments="Pembayaran diterima ({n} transaksi)",
        fees="Biaya MDR",
        adjustments="Pengembalian dana dan pembatalan ({n})",
        carried_in="Kekurangan dari periode sebelumnya",
        carried_out="Kekurangan yang dibawa ke periode berikutnya",
        net="Jumlah bersih untuk merchant",
        in_words="Terbilang",
        providers="Per penyedia pembayaran",
        provider="Penyedia",
        adjusted="Pengembalian",
        carried="Terbawa",
        items="Rincian transaksi",
        no_items="Tidak ada transaksi pada periode ini.",
        at="Waktu (WIB)",
        kind="Jenis",
        transaction="Nomor transaksi · nomor pesanan · outlet",
        gross="Bruto",
        fee="Biaya",
        item_net="Neto",
        total="Jumlah transaksi",
        made_at="Dibuat {at}",
        page="Halaman {page} dari {pages}",
        note="Semua jumlah dalam rupiah penuh. Biaya MDR dibulatkan per transaksi. Waktu dalam WIB (UTC+7).",
        states={
            "calculated": "Menunggu pembayaran",
            "carried": "Dibawa ke periode berikutnya",
            "paying": "Sedang dibayarkan",
            "paid": "Sudah dibayarkan",
            "failed": "Pembayaran gagal, akan diulang",
        },
        payout_modes={"merchant_direct": "Langsung ke rekening merchant", "manual": "Manual oleh tim operasi"},
        kinds={"payment": "Pembayaran", "refund": "Pengembalian", "reversal": "Pembatalan"},
        months=(
            *("Januari", "Februari", "Maret", "April", "Mei", "Juni"),
            *("Juli", "Agustus", "September", "Oktober", "November", "Desember"),
        ),
    ),
    "en": Texts(
        title="Settlement Statement",
        merchant="Merchant",
        legal_name="Legal name",
        nmid="NMID",
        city="City",
        number="Settlement number",
        day="Business day",
        window="Period",
        settles_on="Settlement date",
        status="Status",
        payout="Payout",
        summary="Summary",
        payments="Payments received ({n})",
        fees="MDR fees",
        adjustments="Refunds and reversals ({n})",
        carried_in="Shortfall of the period before",
        carried_out="Shortfall carried to the next period",
        net="Net amount for the merchant",
        in_words="In words",
        providers="By payment provider",
        provider="Provider",
        adjusted="Given back",
        carried="Carried",
        items="Transactions",
        no_items="There are no transactions in this period.",
        at="Time (WIB)",
        kind="Kind",
        transaction="Transaction · order code · outlet",
        gross="Gross",
        fee="Fee",
        item_net="Net",
        total="Total of transactions",
        made_at="Made on {at}",
        page="Page {page} of {pages}",
        note="All amounts are in whole rupiah. MDR fees are rounded per transaction. Times are WIB (UTC+7).",
        states={
            "calculated": "To be paid out",
            "carried": "Carried to the next period",
            "paying": "Being paid out",
            "paid": "Paid out",
            "failed": "Payout failed, to be repeated",
        },
        payout_modes={"merchant_direct": "Straight to the merchant's account", "manual": "By hand, by operations"},
        kinds={"payment": "Payment", "refund": "Refund", "reversal": "Reversal"},
        months=(
            *("January", "February", "March", "April", "May", "June"),
            *("July", "August", "September", "October", "November", "December"),
        ),
    ),
}


def rupiah(amount: int) -> str:
    """As both languages write it here: Rp 1.234.567, and -Rp 350."""
    return f"{'-' if amount < 0 else ''}Rp {abs(amount):,}".replace(",", ".")


def day_text(day: str, texts: Texts) -> str:
    """23 Mei 2026."""
    found = date.fromisoformat(day)
    return f"{found.day} {texts.months[found.month - 1]} {found.year}"


def moment_text(at_ms: int, texts: Texts) -> str:
    """23 Mei 2026 17.00 WIB."""
    at = _at(at_ms)
    return f"{at.day} {texts.months[at.month - 1]} {at.year} {at:%H.%M} WIB"


def short_moment(rfc3339: str) -> str:
    """23/05/2026 17.00.09, in Jakarta: a column of them."""
    return f"{datetime.fromisoformat(rfc3339).astimezone(WIB):%d/%m/%Y %H.%M.%S}"


def _at(at_ms: int) -> datetime:
    return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(WIB)
