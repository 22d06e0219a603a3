"""What the page for receivers says is so: its examples verify what we send, and its tables are those of the code."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from soundbox_server.webhooks.deliveries import RETRY_AFTER_S
from soundbox_server.webhooks.kinds import KINDS
from soundbox_server.webhooks.signing import new_secret, standard_headers

PAGE = (Path(__file__).parents[2] / "docs/webhooks.md").read_text()
BODY = '{"type": "payment.paid", "data": {"merchant": "Tokö"}}'.encode()
LANGUAGES = ["python", *(["javascript"] if shutil.which("node") else [])]


def example(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def verify(language: str, secret: str, headers: dict[str, str], body: bytes) -> bool:
    """What the page's own example makes of it."""
    if language == "python":
        names: dict[str, Any] = {}
        exec(example("python"), names)
        return bool(names["verify"](secret, headers, body))
    asked = f"verify({json.dumps(secret)}, {json.dumps(headers)}, Buffer.from({json.dumps(body.hex())}, 'hex'))"
    script = f"{example('javascript')}\nconsole.log({asked});"
    said = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True, timeout=60)
    return said.stdout.strip() == "true"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_example_takes_what_we_sign_and_nothing_else(language: str) -> None:
    old, new, now_s = new_secret(), new_secret(), int(time.time())
    headers = standard_headers([new, old], message_id="whe_1", at_s=now_s, body=BODY)
    stale = standard_headers([new], message_id="whe_1", at_s=now_s - 301, body=BODY)

    taken = [
        verify(language, new, headers, BODY), verify(language, old, headers, BODY),
        verify(language, new, headers, BODY + b" "), verify(language, new_secret(), headers, BODY),
        verify(language, new, headers | {"webhook-id": "whe_2"}, BODY), verify(language, new, stale, BODY),
    ]  # fmt: skip

    assert taken == [True, True, False, False, False, False]


def test_every_event_is_on_the_page() -> None:
    told = set(
        re.findall(r"`((?:payment|settlement|payout|device|warning|webhook)\.[a-z_]+)`", PAGE.split("## Answering")[0])
    )

    assert told == set(KINDS)


def test_the_delays_are_those_of_the_code() -> None:
    seconds = {"s": 1, "min": 60, "h": 3_600}
    (said,) = re.findall(r"tried again after (.*?) \(each", PAGE.replace("\n", " "))

    assert [int(n) * seconds[unit] for n, unit in re.findall(r"(\d+) (s|min|h)\b", said)] == list(RETRY_AFTER_S)
