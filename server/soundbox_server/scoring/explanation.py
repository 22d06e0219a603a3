"""What a score rests on, told without any AI: for each component its value, its points, and what would raise it.

In Indonesian and in English. Numbers and fixed sentences, so that the same score is always explained alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from soundbox_server.scoring.points import WEIGHTS, Score
from soundbox_server.scoring.state import Component, Model

C = Component
Texts = Mapping[Component, Mapping[str, str]]

_VALUES: Texts = {
    C.VOLUME: {
        "id": "{count} transaksi dalam tiga bulan",
        "en": "{count} transactions in three months",
    },
    C.CONSISTENCY: {
        "id": "pendapatan naik-turun {volatility} % di sekitar rata-ratanya",
        "en": "revenue varies by {volatility} % around its mean",
    },
    C.GROWTH: {
        "id": "pendapatan berubah {growth} % terhadap periode sebelumnya",
        "en": "revenue changed by {growth} % against the period before",
    },
    C.REFUNDS: {
        "id": "{refunds} % dikembalikan kepada pembeli",
        "en": "{refunds} % went back to buyers",
    },
    C.SETTLEMENT: {
        "id": "dana cair rata-rata {settlement} hari setelah pembayaran",
        "en": "money is paid out {settlement} days after the payment on average",
    },
}
_ADVICE: Texts = {
    C.VOLUME: {
        "id": "Lebih banyak pembayaran QRIS menaikkan nilai ini; uang tunai tidak dihitung.",
        "en": "More QRIS payments raise this; cash does not count.",
    },
    C.CONSISTENCY: {
        "id": "Berjualan setiap minggu tanpa jeda dengan omzet yang merata menaikkan nilai ini.",
        "en": "Selling every week without a break, for similar amounts, raises this.",
    },
    C.GROWTH: {
        "id": "Omzet empat minggu terakhir di atas empat minggu sebelumnya menaikkan nilai ini.",
        "en": "Taking more in the last four weeks than in the four before raises this.",
    },
    C.REFUNDS: {
        "id": "Setiap 1 % pengembalian dana mengurangi 20 poin; lebih sedikit pengembalian menaikkan nilai ini.",
        "en": "Each 1 % given back costs 20 points; fewer refunds raise this.",
    },
    C.SETTLEMENT: {
        "id": "Rekening penampung yang benar dan aktif mempercepat pencairan: sampai satu hari bernilai penuh.",
        "en": "A correct and active payout account makes payouts quicker: up to one day earns everything.",
    },
}
# The reference's model counts differently, and so does what raises its points.
_V1_ADVICE: Texts = {
    C.VOLUME: {
        "id": "Setiap transaksi sampai yang keseratus dalam tiga bulan menambah satu poin.",
        "en": "Each transaction up to the hundredth in three months adds a point.",
    },
    C.CONSISTENCY: {
        "id": "Omzet harian yang merata menaikkan nilai ini.",
        "en": "Taking similar amounts each day raises this.",
    },
    C.GROWTH: {
        "id": "Omzet bulan berjalan di atas bulan lalu menaikkan nilai ini; di awal bulan nilainya selalu rendah.",
        "en": "Taking more this month than in the whole last one raises this; early in a month it is always low.",
    },
}
_FULL = {"id": "Nilai ini sudah penuh.", "en": "There is nothing left to gain here."}
_MISSING = {
    "history_days": {
        "id": "riwayat {have} hari, perlu {need} hari",
        "en": "{have} days of history, {need} are needed",
    },
    "payments": {
        "id": "{have} pembayaran terkonfirmasi, perlu {need}",
        "en": "{have} confirmed payments, {need} are needed",
    },
    "transactions": {
        "id": "{have} transaksi, perlu {need}",
        "en": "{have} transactions, {need} are needed",
    },
}
_NO_SCORE = {
    "id": "Riwayat belum cukup untuk dinilai: {missing}.",
    "en": "Not enough history for a score: {missing}.",
}
_SCORE = {
    "id": "Skor {score} dari 100, risiko {band}. Terkuat: {best}; terlemah: {worst}.",
    "en": "Score {score} of 100, {band} risk. Strongest: {best}; weakest: {worst}.",
}
_BANDS = {
    "Low": {"id": "rendah", "en": "low"},
    "Medium": {"id": "sedang", "en": "medium"},
    "High": {"id": "tinggi", "en": "high"},
}
NAMES: Texts = {
    C.VOLUME: {"id": "jumlah transaksi", "en": "transaction volume"},
    C.CONSISTENCY: {"id": "kestabilan pendapatan", "en": "revenue consistency"},
    C.GROWTH: {"id": "pertumbuhan", "en": "growth"},
    C.REFUNDS: {"id": "pengembalian dana", "en": "refunds"},
    C.SETTLEMENT: {"id": "pencairan dana", "en": "settlement"},
}
LANGUAGES = ("id", "en")


def reasons(score: Score) -> list[dict[str, Any]]:
    """`[{component, weight, points, value{id, en}, advice{id, en}}]`; without a score there is nothing to explain."""
    if score.components is None:
        return []
    return [
        {
            "component": name.value,
            "weight": WEIGHTS[name],
            "points": points,
            "value": _told(_VALUES[name], score.metrics),
            "advice": dict(_FULL) if points == 100 else _advice(name, score.model),
        }
        for name, points in score.components.items()
    ]


def _told(texts: Mapping[str, str], metrics: Mapping[str, float | int]) -> dict[str, str]:
    values = {
        "count": metrics["transactionCount3m"],
        "volatility": metrics["revenueVolatility"],
        "growth": metrics["growthPercentageMoM"],
        "refunds": metrics["refundRatePercentage"],
        "settlement": metrics["avgSettlementDays"],
    }
    spelled = {
        "en": {name: _number(value) for name, value in values.items()},
        "id": {name: _number(value).replace(".", ",") for name, value in values.items()},
    }
    return {language: texts[language].format(**spelled[language]) for language in LANGUAGES}


def _number(value: float | int) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _advice(name: Component, model: Model) -> dict[str, str]:
    texts = _V1_ADVICE.get(name, _ADVICE[name]) if model is Model.PAYBABA_V1 else _ADVICE[name]
    return dict(texts)


def summary(score: Score, language: str) -> str:
    """The score, or why there is none, in a sentence."""
    if score.components is None or score.score is None or score.risk_band is None:
        missing = ", ".join(
            _MISSING[name][language].format(have=have, need=need)
            for name, (have, need) in (score.missing or {}).items()
            if have < need
        )
        return _NO_SCORE[language].format(missing=missing)
    best, worst = _ends(score.components)
    return _SCORE[language].format(
        score=score.score, band=_BANDS[score.risk_band][language],
        best=f"{NAMES[best][language]} ({score.components[best]})",
        worst=f"{NAMES[worst][language]} ({score.components[worst]})",
    )  # fmt: skip


def recommendation(score: Score, language: str) -> str:
    """What would raise the score most: of the components, the one that costs it most."""
    if score.components is None:
        return summary(score, language)
    costs: Sequence[Component] = sorted(
        score.components, key=lambda name: WEIGHTS[name] * (100 - (score.components or {})[name]), reverse=True
    )
    worst = costs[0]
    return _FULL[language] if score.components[worst] == 100 else _advice(worst, score.model)[language]


def _ends(components: Mapping[Component, int]) -> tuple[Component, Component]:
    return max(components, key=lambda name: components[name]), min(components, key=lambda name: components[name])
