"""Somebody who answers as a language model does: chat completions over a real socket on loopback."""

import json
from collections.abc import Mapping
from typing import Any

from support.receiver import Got, answered

# What a well-behaved model writes, by what it is asked for: no number but those of its figures.
GOOD: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "explanation": {
        "id": {
            "explanation": "Skor Anda {score} dari 100 karena pendapatan stabil, dan jumlah transaksi lebih lemah.",
            "recommendation": "Tambah pembayaran QRIS untuk menaikkan nilai pada bulan ini.",
        },
        "en": {
            "explanation": "Your score is {score} of 100 because the revenue is steady and the volume is weaker.",
            "recommendation": "Take more QRIS payments this month to raise the weakest part.",
        },
    },
    "analysis": {
        "id": {"analysis": "Penjualan turun {value} dalam 10 hari ini; lihat dan pelajari hari yang paling sepi."},
        "en": {"analysis": "Sales fell by {value} in the last 10 days; look at the days that were most quiet."},
    },
    "reasoning": {
        "id": {"reasoning": "Dari {whole_months} bulan penuh, arus kas paling kuat pada minggu yang sama."},
        "en": {"reasoning": "Over {whole_months} whole months the cash flow is best in one week of the month."},
    },
    "performance_summary": {
        "id": {
            "performance_summary": "P1 paling laku dan terjual lebih dari yang lain dalam 3 bulan.",
            "inventory_advice": "Siapkan stok P1 untuk 14 hari dan jangan terlalu banyak.",
            "growth_opportunity": "Pajang P1 di depan agar lebih mudah dilihat oleh pembeli.",
        },
        "en": {
            "performance_summary": "P1 is what sells most of all in the last 3 months.",
            "inventory_advice": "Have P1 in stock for the next 14 days and not more.",
            "growth_opportunity": "Show P1 in front so that it is seen by more buyers.",
        },
    },
}


def asked(got: Got) -> tuple[str, dict[str, Any]]:
    """What the model was told to write, by its first field, and the figures it got."""
    system, user = got.said["messages"]
    field = next(name for name in GOOD if f'"{name}": "..."' in system["content"])
    return field, dict(json.loads(user["content"]))


def good(got: Got) -> bytes:
    """A fitting answer to whatever was asked."""
    field, figures = asked(got)
    return completion(fitting(field, figures))


def fitting(field: str, figures: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    def told(text: str, language: str) -> str:
        values = {name: f"{value:g}" for name, value in figures.items() if isinstance(value, int | float)}
        if language == "id":
            values = {name: value.replace(".", ",") for name, value in values.items()}
        return text.format(**values)

    return {
        language: {name: told(text, language) for name, text in texts.items()}
        for language, texts in GOOD[field].items()
    }


def completion(content: Any, *, finish_reason: str = "stop", **other: Any) -> bytes:
    """The answer of chat completions with this content: a text, or what becomes one of JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    said = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 210, "completion_tokens": 55},
    }
    return answered(200, json.dumps(said | other).encode(), "Content-Type: application/json")
