"""A statement on paper: what a shopkeeper reads first stands on top, what an auditor adds up stands below.

Rows come in pieces, and the pages are kept until the end: each one's foot says how many there are. The font is embedded
in each document, so that it looks the same everywhere.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import fontpkg
from fpdf import FPDF
from fpdf.enums import Align, XPos, YPos

from soundbox_protocol.speech import amount_words
from soundbox_server.settlements.models import Settlement, SettlementShare
from soundbox_server.statements.service import Facts
from soundbox_server.statements.texts import (
    TEXTS,
    Language,
    Texts,
    day_text,
    moment_text,
    rupiah,
    short_moment,
)

_FONT = "PT Sans"
_INK, _PALE, _BLUE, _BAND = (15, 23, 42), (100, 116, 139), (29, 78, 216), (241, 245, 249)
_MARGIN_MM, _WIDTH_MM, _FOOT_MM = 15, 180, 18
_ROW_MM, _LINE_MM = 8.0, 5.5
_MM_PER_POINT = 25.4 / 72
_ITEM_WIDTHS_MM = (29, 21, 52, 28, 23, 27)
_SHARE_WIDTHS_MM = (44, 28, 24, 28, 28, 28)


class _Pages(FPDF):
    """Its foot, and the head that a table has again on each page."""

    def __init__(self, facts: Facts, texts: Texts) -> None:
        super().__init__(format="A4")
        self._facts, self._texts = facts, texts
        self.in_items = False
        self._letters: dict[tuple[str, bool], float] = {}
        for style, weight in (("", 400), ("B", 700)):
            self.add_font(_FONT, style, fontpkg.path(_FONT, weight=weight))
        self.set_margins(_MARGIN_MM, _MARGIN_MM)
        self.set_auto_page_break(auto=True, margin=_FOOT_MM)
        self.alias_nb_pages("{nb}")

    def header(self) -> None:
        if self.in_items and self.page > 1:
            self.items_head()

    def footer(self) -> None:
        self.set_y(-_FOOT_MM + 4)
        self.ink(7, _PALE)
        texts, facts = self._texts, self._facts
        self.cell(_WIDTH_MM, 3.5, texts.note, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        made = texts.made_at.format(at=moment_text(facts.made_at_ms, texts))
        self.cell(_WIDTH_MM / 2, 3.5, f"{facts.settlement.id} · {made}")
        pages = texts.page.format(page=self.page_no(), pages="{nb}")
        self.cell(_WIDTH_MM / 2, 3.5, pages, align=Align.R)

    def items_head(self) -> None:
        """The columns of the items."""
        texts = self._texts
        names = (texts.at, texts.kind, texts.transaction, texts.gross, texts.fee, texts.item_net)
        self.table_head(names, _ITEM_WIDTHS_MM, first_number=3)

    def table_head(self, names: Sequence[str], widths: Sequence[float], *, first_number: int) -> None:
        """The names of a table's columns; from `first_number` on they hold numbers."""
        self.ink(7.5, _INK, bold=True)
        self.set_fill_color(*_BAND)
        for n, (name, width) in enumerate(zip(names, widths, strict=True)):
            align = Align.R if n >= first_number else Align.L
            self.cell(width, 6, name, align=align, fill=True)
        self.ln(6.5)

    def ink(self, size: float, colour: tuple[int, int, int], *, bold: bool = False) -> None:
        """What is written from here on looks so."""
        self.set_font(_FONT, "B" if bold else "", size)
        self.set_text_color(*colour)

    def put(
        self,
        width: float,
        height: float,
        text: str,
        *,
        size: float = 9,
        colour: tuple[int, int, int] = _INK,
        bold: bool = False,
        right: bool = False,
        last: bool = False,
    ) -> None:
        """One line of text. Words are cut where they would run into their neighbour; a number, which stands on the
        right, is written smaller instead.

        Measured and placed here: the library's own cells take three times as long, and there may be thousands.
        """
        room, wide = width - 2 * self.c_margin, self._wide(text, bold=bold)
        if right:
            size = min(size, room / wide / _MM_PER_POINT)
        elif wide * size * _MM_PER_POINT > room:
            text = self._cut(text, room / size / _MM_PER_POINT, bold=bold)
        self.ink(size, colour, bold=bold)
        left = self.x + (width - self.c_margin - wide * size * _MM_PER_POINT if right else self.c_margin)
        self.text(left, self.y + height / 2 + 0.35 * size * _MM_PER_POINT, text)
        self.set_xy(*((self.l_margin, self.y + height) if last else (self.x + width, self.y)))

    def _wide(self, text: str, *, bold: bool) -> float:
        """In ems."""
        return sum(self._letter(letter, bold) for letter in text) or 1.0

    def _letter(self, letter: str, bold: bool) -> float:
        width = self._letters.get((letter, bold))
        if width is None:
            self.ink(10, _INK, bold=bold)
            width = self._letters[letter, bold] = self.get_string_width(letter) / (10 * _MM_PER_POINT)
        return width

    def _cut(self, text: str, room: float, *, bold: bool) -> str:
        room -= self._letter("…", bold)
        for end, letter in enumerate(text):
            room -= self._letter(letter, bold)
            if room < 0:
                return text[:end].rstrip() + "…"
        return text


class PdfForm:
    """One document. `end` is the whole file: nothing before it can be written out."""

    def __init__(self, facts: Facts, language: Language) -> None:
        self._facts, self._language, self._texts = facts, language, TEXTS[language]
        self._sums = [0, 0, 0]
        self._any = False

    def beginning(self) -> bytes:
        facts, texts = self._facts, self._texts
        self._pages = pages = _Pages(facts, texts)
        pages.set_title(f"{texts.title} {facts.settlement.day} · {facts.merchant.legal_name}")
        pages.set_subject(facts.settlement.id)
        pages.set_lang(self._language)
        pages.set_creation_date(datetime.fromtimestamp(facts.made_at_ms / 1_000, UTC))
        pages.add_page()
        self._title()
        self._particulars()
        self._summary()
        if len(facts.shares) > 1:
            self._providers()
        self._heading(texts.items)
        pages.in_items = True
        pages.items_head()
        return b""

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        for row in rows:
            self._item(row)
        self._any = self._any or bool(rows)
        return b""

    def end(self) -> bytes:
        pages, texts = self._pages, self._texts
        if not self._any:
            pages.put(_WIDTH_MM, _ROW_MM, texts.no_items, colour=_PALE, last=True)
        elif pages.will_page_break(_ROW_MM):
            pages.add_page()
        pages.in_items = False
        pages.set_draw_color(*_INK)
        pages.line(_MARGIN_MM, pages.get_y(), _MARGIN_MM + _WIDTH_MM, pages.get_y())
        pages.put(sum(_ITEM_WIDTHS_MM[:3]), _ROW_MM, texts.total, size=8, bold=True)
        for amount, width in zip(self._sums, _ITEM_WIDTHS_MM[3:], strict=True):
            pages.put(width, _ROW_MM, rupiah(amount), size=8, bold=True, right=True)
        return bytes(pages.output())

    def _title(self) -> None:
        pages, merchant, settlement = self._pages, self._facts.merchant, self._facts.settlement
        pages.put(_WIDTH_MM, 9, self._texts.title, size=20, colour=_BLUE, bold=True, last=True)
        line = f"{merchant.brand_name} · {day_text(settlement.day, self._texts)}"
        pages.put(_WIDTH_MM, 6, line, size=11, colour=_PALE, last=True)
        pages.ln(4)

    def _particulars(self) -> None:
        texts, merchant, settlement = self._texts, self._facts.merchant, self._facts.settlement
        opens, closes = (moment_text(at, texts) for at in (settlement.opens_at_ms, settlement.closes_at_ms))
        left = (
            (texts.legal_name, merchant.legal_name),
            (texts.merchant, f"{merchant.brand_name} ({merchant.merchant_code})"),
            (texts.nmid, merchant.nmid or "-"),
            (texts.city, merchant.city or "-"),
            (texts.payout, texts.payout_modes[settlement.payout_mode]),
        )
        right = (
            (texts.number, settlement.id),
            (texts.day, f"{day_text(settlement.day, texts)} ({settlement.window_name})"),
            (texts.window, f"{opens} -"),
            ("", closes),
            (texts.settles_on, day_text(settlement.settles_on, texts)),
        )
        for (name, value), (other_name, other) in zip(left, right, strict=True):
            self._pages.put(31, _LINE_MM, name, size=8, colour=_PALE)
            self._pages.put(57, _LINE_MM, value)
            self._pages.put(29, _LINE_MM, other_name, size=8, colour=_PALE)
            self._pages.put(63, _LINE_MM, other, last=True)
        self._pages.ln(3)

    def _summary(self) -> None:
        pages, texts, settlement = self._pages, self._texts, self._facts.settlement
        self._heading(texts.summary)
        for name, amount in _sum_lines(settlement, texts):
            pages.put(_WIDTH_MM - 45, 6, name)
            pages.put(45, 6, rupiah(amount), right=True, last=True)
        pages.set_draw_color(*_INK)
        pages.line(_MARGIN_MM, pages.get_y() + 0.5, _MARGIN_MM + _WIDTH_MM, pages.get_y() + 0.5)
        pages.ln(1)
        pages.put(_WIDTH_MM - 60, 9, texts.net, size=13, bold=True)
        pages.put(60, 9, rupiah(settlement.net_amount), size=13, bold=True, right=True, last=True)
        said = f"{texts.in_words}: {amount_words(settlement.net_amount, self._language)} rupiah"
        pages.ink(8, _PALE)
        pages.multi_cell(_WIDTH_MM, 4, said, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        pages.put(_WIDTH_MM, 5, f"{texts.status}: {texts.states[settlement.state]}", size=8, colour=_PALE, last=True)
        pages.ln(3)

    def _providers(self) -> None:
        pages, texts = self._pages, self._texts
        self._heading(texts.providers)
        names = (texts.provider, texts.gross, texts.fee, texts.adjusted, texts.carried, texts.item_net)
        pages.table_head(names, _SHARE_WIDTHS_MM, first_number=1)
        for share in self._facts.shares:
            pages.put(_SHARE_WIDTHS_MM[0], 6, share.provider, size=8)
            for amount, width in zip(_share_amounts(share), _SHARE_WIDTHS_MM[1:], strict=True):
                pages.put(width, 6, rupiah(amount), size=8, right=True)
            pages.ln(6)
        pages.ln(3)

    def _heading(self, text: str) -> None:
        self._pages.put(_WIDTH_MM, 7, text, size=11, bold=True, last=True)

    def _item(self, row: Mapping[str, Any]) -> None:
        pages, texts = self._pages, self._texts
        if pages.will_page_break(_ROW_MM):
            pages.add_page()
        top, half = pages.get_y(), _ROW_MM / 2
        at, kind, what, *numbers = _ITEM_WIDTHS_MM
        pages.put(at, half, short_moment(row["at"]), size=7.5)
        pages.put(kind, half, texts.kinds[row["kind"]], size=7.5)
        left = pages.get_x()
        pages.put(what, half, row["transaction_id"], size=7.5)
        amounts = (row["gross_amount"], row["fee_amount"], row["net_amount"])
        for amount, width in zip(amounts, numbers, strict=True):
            pages.put(width, half, rupiah(amount), size=7.5, right=True)
        pages.set_xy(left, top + half - 0.4)
        about = " · ".join(part for part in (row["order_code"], row["outlet_name"]) if part)
        pages.put(what + sum(numbers), half, about, size=6.5, colour=_PALE)
        pages.set_xy(_MARGIN_MM, top + _ROW_MM)
        self._sums = [so_far + amount for so_far, amount in zip(self._sums, amounts, strict=True)]


def _sum_lines(settlement: Settlement, texts: Texts) -> list[tuple[str, int]]:
    """What the net is the sum of; a line that says nothing is left out."""
    lines = [
        (texts.payments.format(n=settlement.payments), settlement.gross_amount),
        (texts.fees, -settlement.fee_amount),
    ]
    if settlement.adjustments:
        lines.append((texts.adjustments.format(n=settlement.adjustments), settlement.adjustment_amount))
    if settlement.carried_in:
        lines.append((texts.carried_in, settlement.carried_in))
    if settlement.carried_out:
        lines.append((texts.carried_out, -settlement.carried_out))
    return lines


def _share_amounts(share: SettlementShare) -> tuple[int, ...]:
    carried = share.carried_in - share.carried_out
    return (share.gross_amount, -share.fee_amount, share.adjustment_amount, carried, share.net_amount)
