"""Activation codes to take away: as CSV, and as a sheet of cards to print. Codes are stored as hashes, so they can only
be written out in the answer that made them."""

import base64
import csv
import hashlib
import io
from collections.abc import Sequence
from datetime import datetime
from html import escape
from zoneinfo import ZoneInfo

import segno

from soundbox_server.clock import rfc3339
from soundbox_server.devices.bulk import Registered

MOST_CARDS = 500  # a QR picture costs 10 to 40 ms
_FIELDS = ("serial_number", "device_id", "activation_code", "expires_at", "vendor", "model", "label")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ZONE = ZoneInfo("Asia/Jakarta")


def activation_string(box: Registered) -> str:
    """What the QR on a card says: SBX1:<serial number>:<code>, so that a phone or a box need not type it."""
    return f"SBX1:{box.serial_number}:{box.activation_code}"


def csv_text(boxes: Sequence[Registered]) -> str:
    """One line a box. No cell can be taken for a formula by a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_FIELDS)
    writer.writerows([_harmless(cell) for cell in _cells(box)] for box in boxes)
    return out.getvalue()


def _cells(box: Registered) -> tuple[str, ...]:
    expires = rfc3339(box.expires_at_ms)
    return (
        box.serial_number, box.device_id, box.activation_code, expires, box.vendor, box.model, box.label or "",
    )  # fmt: skip


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


_STYLE = """
@page { size: A4; margin: 12mm }
* { box-sizing: border-box }
body { margin: 0; padding: 16px; background: #F8FAFC; color: #0F172A; font: 13px/1.4 Inter, system-ui, sans-serif }
header { margin-bottom: 16px }
h1 { margin: 0; font-size: 20px }
p { margin: 4px 0 0; color: #475569 }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 12px }
article { display: flex; gap: 12px; padding: 12px; background: #FFF; border: 1px solid #64748B; border-radius: 8px;
  break-inside: avoid }
img { width: 112px; height: 112px; flex: none }
dl { margin: 0; min-width: 0 }
dt { color: #475569; font-size: 12px }
dd { margin: 0 0 4px; overflow-wrap: anywhere }
dd.code { font: 700 20px/1.3 ui-monospace, monospace; letter-spacing: 1px; white-space: nowrap }
@media print {
  body { padding: 0; background: #FFF }
  main { display: block; columns: 2; column-gap: 4mm }
  article { margin-bottom: 4mm }
}
"""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src "
    f"'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)


def html_sheet(boxes: Sequence[Registered], *, batch_id: str) -> str:
    """A page of cards for A4, whole in itself: it loads nothing and runs nothing."""
    ends = datetime.fromtimestamp(min(box.expires_at_ms for box in boxes) / 1000, _ZONE)
    until = escape(f"{ends:%d-%m-%Y %H:%M} WIB")
    return f"""<!doctype html>
<html lang="id">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Kode aktivasi {escape(batch_id)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>Kode aktivasi soundbox</h1>
<p>{len(boxes)} unit · {escape(batch_id)} · berlaku sampai <strong>{until}</strong>, sekali pakai, hanya ditampilkan \
kali ini.</p>
<p lang="en">Activation codes of {len(boxes)} boxes: valid until {until}, good for one use, shown this once.</p>
</header>
<main>
{"".join(map(_card, boxes))}</main>
</body>
</html>
"""


def _card(box: Registered) -> str:
    code = f"{box.activation_code[:5]}-{box.activation_code[5:]}"
    label = f"<dt>Keterangan · Label</dt><dd>{escape(box.label)}</dd>" if box.label else ""
    return f"""<article>
<img src="{escape(_qr(activation_string(box)))}" alt="QR: {escape(box.serial_number)}">
<dl><dt>Kode aktivasi · Activation code</dt><dd class="code">{escape(code)}</dd>
<dt>Nomor seri · Serial number</dt><dd>{escape(box.serial_number)}</dd>
<dt>ID perangkat · Device id</dt><dd>{escape(box.device_id)}</dd>
{label}</dl>
</article>
"""


def _qr(text: str) -> str:
    return str(segno.make(text, error="m", micro=False).svg_data_uri(border=2, dark="#0F172A"))
