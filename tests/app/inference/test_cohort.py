"""Requests that came together go through each stage together, and one alone waits for nobody."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from app.inference import reading
from app.inference.cohort import Cohort
from app.inference.reading import PictureReader
from app.settings import Settings
from model.arrays import Pixels
from model.digits.preprocessing import Preprocessed
from tests.app.api.request_bodies import small

SEVERAL = ("first", "second", "third")


async def pass_stages(cohort: Cohort, name: str, log: list[tuple[str, int]]) -> None:
    await cohort.begin()
    log.append((name, 1))
    for stage in (2, 3):
        await cohort.begin_stage()
        log.append((name, stage))


async def come_together(cohort: Cohort, names: Sequence[str] = SEVERAL) -> list[tuple[str, int]]:
    log: list[tuple[str, int]] = []
    await asyncio.gather(*(pass_stages(cohort, name, log) for name in names))
    return log


async def turns_of_one(cohort: Cohort) -> int:
    """The turns of the event loop that a request alone takes."""
    task = asyncio.create_task(pass_stages(cohort, "one", []))
    count = 0
    while not task.done():
        await asyncio.sleep(0)
        count += 1
    return count


async def test_those_that_come_together_go_through_each_stage_together() -> None:
    cohort = Cohort()
    await come_together(cohort)  # the first cannot know of each other

    log = await come_together(cohort)

    assert log == [(name, stage) for stage in (1, 2, 3) for name in SEVERAL]


async def test_one_alone_waits_for_nobody() -> None:
    cohort = Cohort()

    assert [await turns_of_one(cohort) for _ in range(3)] == [1, 1, 1]


async def test_one_alone_waits_once_after_others_that_came_together() -> None:
    cohort = Cohort()
    await come_together(cohort)

    assert [await turns_of_one(cohort) for _ in range(3)] == [2, 1, 1]


async def test_one_that_goes_away_in_a_stage_keeps_nobody_waiting() -> None:
    cohort = Cohort()
    await come_together(cohort)
    leaving = asyncio.create_task(pass_stages(cohort, "leaving", []))
    await asyncio.sleep(0)
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving

    assert leaving.cancelled()
    assert await turns_of_one(cohort) == 1


async def test_pictures_that_come_together_are_decoded_and_then_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []

    def noting(name: str) -> None:
        real = getattr(reading, name)

        def noted(*args: Any, **options: Any) -> Any:
            log.append(name)
            return real(*args, **options)

        monkeypatch.setattr(reading, name, noted)

    noting("decode_inline")
    noting("find_digits")
    reader = PictureReader(Settings())

    async def read_all() -> list[Preprocessed | None]:
        pictures = (small(f"{digit}.png") for digit in range(3))
        return await asyncio.gather(*(reader.read_inline(each, "auto") for each in pictures))

    def pixels(read: list[Preprocessed | None]) -> list[Pixels]:
        return [one.pixels for one in read if one is not None]

    one_by_one = pixels(await read_all())
    together = pixels(await read_all())
    reader.close()

    assert log[:6] == ["decode_inline", "find_digits"] * 3
    assert log[6:] == ["decode_inline"] * 3 + ["find_digits"] * 3
    assert len(together) == 3
    assert all((a == b).all() for a, b in zip(one_by_one, together, strict=True))
