"""A statement for spreadsheets and bookkeeping programs: a line for each item, then what else makes up the sum.

The net amounts of all lines but the last add up to the last one's, which is what is paid out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from soundbox_server.exports.writing import beginning, lines
from soundbox_server.statements.service import Facts

COLUMNS = (
    "settlement_id", "merchant_code", "date", "window", "settles_on", "kind", "at", "transaction_id", "order_code",
    "method", "outlet_name", "terminal_code", "gross_amount", "fee_amount", "net_amount",
)  # fmt: skip
_EMPTY = dict.fromkeys(COLUMNS)


class CsvForm:
    def __init__(self, facts: Facts) -> None:
        settlement = facts.settlement
        self._settlement = settlement
        self._same = _EMPTY | {
            "settlement_id": settlement.id,
            "merchant_code": facts.merchant.merchant_code,
            "date": settlement.day,
            "window": settlement.window_name,
            "settles_on": settlement.settles_on,
        }

    def beginning(self) -> bytes:
        return beginning("csv", COLUMNS, with_bom=False)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        return lines("csv", COLUMNS, [{**self._same, **row} for row in rows])

    def end(self) -> bytes:
        settlement = self._settlement
        carried = [
            self._same | {"kind": name, "net_amount": amount}
            for name, amount in (("carried_in", settlement.carried_in), ("carried_out", -settlement.carried_out))
            if amount
        ]
        net = self._same | {"kind": "net", "net_amount": settlement.net_amount}
        return lines("csv", COLUMNS, [*carried, net])
