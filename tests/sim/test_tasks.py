"""Tasks that end together, whatever they make of being told to."""

import asyncio

import pytest

from soundbox_sim import tasks


async def _deaf(times: int) -> None:
    """Forgets so many cancellations, as `asyncio.wait_for` does with one that meets its answer."""
    for _ in range(times):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()


async def _failed() -> None:
    raise OSError("gone")


async def test_who_forgets_to_end_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)
    works = [asyncio.create_task(work) for work in (_deaf(0), _deaf(1), _deaf(3), _failed())]
    await asyncio.sleep(0)

    await asyncio.wait_for(tasks.end(works), 20)

    assert [work.cancelled() for work in works] == [True, True, True, False]


async def test_who_is_cancelled_while_it_waits_for_them_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)
    works = [asyncio.create_task(_deaf(5))]
    await asyncio.sleep(0)
    ending = asyncio.create_task(tasks.end(works))
    await asyncio.sleep(0)
    ending.cancel()

    with pytest.raises(asyncio.CancelledError):
        await ending

    assert works[0].cancelled()
