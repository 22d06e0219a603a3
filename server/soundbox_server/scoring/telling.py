"""Loan timing and product insights, put into words: fixed sentences with figures, in Indonesian and in English."""

from collections.abc import Mapping

from soundbox_server.scoring.products import FEWEST_PIECES, Insights, Product
from soundbox_server.scoring.seasons import FEWEST_MONTHS, Timing

_TIMING: Mapping[str, Mapping[str, str]] = {
    "short": {
        "id": "Riwayat belum cukup: ada {months} bulan penuh, perlu {need} untuk melihat pola mingguan.",
        "en": "Not enough history: {months} whole months, {need} are needed to see a weekly pattern.",
    },
    "flat": {
        "id": "Dari {months} bulan penuh tidak ada minggu yang menonjol: waktu pengajuan tidak berpengaruh.",
        "en": "No week stands out in {months} whole months: when to apply makes no difference.",
    },
    "found": {
        "id": "Selama {months} bulan penuh, minggu ke-{week} menghasilkan {above} % di atas rata-rata harian bulannya; "
        "arus kas terkuat ada di sana.",
        "en": "In {months} whole months week {week} earned {above} % above its month's daily mean; cash flow is "
        "strongest there.",
    },
}


def why_then(timing: Timing, language: str) -> str:
    """What the recommended week rests on."""
    told = "found" if timing.week else "short" if timing.months < FEWEST_MONTHS else "flat"
    return _TIMING[told][language].format(
        months=timing.months, need=FEWEST_MONTHS, week=timing.week, above=_figure(timing.above_percent, language)
    )


_SOLD = {
    "id": "{pieces} barang terjual dalam tiga bulan; terlaris {name} dengan {best}.",
    "en": "{pieces} pieces sold in three months; most of all {name} with {best}.",
}
_TOO_FEW = {
    "id": "Riwayat belum cukup: {pieces} barang terjual dalam tiga bulan, perlu {need}.",
    "en": "Not enough history: {pieces} pieces sold in three months, {need} are needed.",
}
_REASON = {
    "id": "{pieces} terjual dalam tiga bulan, {growth} dalam 28 hari terakhir",
    "en": "{pieces} sold in three months, {growth} over the last 28 days",
}
_NEW = {"id": "baru laku", "en": "newly sold"}
_STOCK = {
    "id": "Siapkan untuk dua minggu: {list}.",
    "en": "Have in stock for two weeks: {list}.",
}
_NO_STOCK = {
    "id": "Tidak ada penjualan dalam 28 hari terakhir: jangan menambah persediaan dulu.",
    "en": "Nothing was sold in the last 28 days: do not add to the stock yet.",
}
_GROWING = {
    "id": "{name} tumbuh {growth}: tampilkan lebih depan atau jual bersama barang lain.",
    "en": "{name} grows, {growth}: show it first, or sell it together with others.",
}
_NOTHING_GROWS = {
    "id": "Belum ada barang terlaris yang tumbuh 20 % atau lebih.",
    "en": "None of the best sellers grows by 20 % or more.",
}


def performance(found: Insights, language: str) -> str:
    if not found.products:
        return _TOO_FEW[language].format(pieces=found.pieces, need=FEWEST_PIECES)
    best = found.products[0]
    return _SOLD[language].format(pieces=found.pieces, name=best.name, best=best.pieces)


def reason(product: Product, language: str) -> str:
    return _REASON[language].format(pieces=product.pieces, growth=_growth(product, language))


def stock_advice(found: Insights, language: str) -> str | None:
    """None without enough history."""
    if not found.products:
        return None
    wanted = ", ".join(f"{one.name} {one.stock}" for one in found.products if one.stock)
    return _STOCK[language].format(list=wanted) if wanted else _NO_STOCK[language]


def opportunity(found: Insights, language: str) -> str | None:
    """None without enough history."""
    if not found.products:
        return None
    growing = [one for one in found.products if one.grows]
    if not growing:
        return _NOTHING_GROWS[language]
    best = max(growing, key=lambda one: one.last - one.before)
    return _GROWING[language].format(name=best.name, growth=_growth(best, language))


def _growth(product: Product, language: str) -> str:
    if product.growth_percent is None:
        return _NEW[language]
    sign = "+" if product.growth_percent > 0 else ""
    return f"{sign}{_figure(product.growth_percent, language)} %"


def _figure(value: float, language: str) -> str:
    text = f"{value:g}"
    return text.replace(".", ",") if language == "id" else text
