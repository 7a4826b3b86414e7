"""What a resource has been asked for, and how long the next request would wait."""

import pytest

from app.inference.backlog import Backlog, Charge, size_of


def test_costs_of_a_power_of_eight_have_a_size() -> None:
    assert size_of(0) == 0
    assert size_of(64) == size_of(511) == size_of(63) + 1 == size_of(512) - 1
    assert size_of(2**60) == size_of(2**42) == size_of(2**42 - 1) + 1


def test_where_nothing_is_left_to_do_nobody_waits() -> None:
    backlog = Backlog(100.0)
    with Charge(backlog, 500) as charge:
        assert backlog.wait(500) == pytest.approx(5)
        charge.settle(200)
        assert backlog.total == 200
        assert backlog.wait(500) == pytest.approx(2)
        charge.settle(0)
        assert (backlog.total, backlog.wait(500)) == (0, 0)
    assert (backlog.total, backlog.wait(10**6)) == (0, 0)


def test_the_begin_and_the_end_of_a_block_are_noted() -> None:
    changes: list[int] = []
    with Charge(Backlog(1.0), 5, changes.append):
        assert changes == [1]
    assert changes == [1, -1]


def test_smaller_ones_count_whole_and_larger_ones_with_the_share_of_the_oldest() -> None:
    backlog = Backlog(1.0)
    with Charge(backlog, 60), Charge(backlog, 1000), Charge(backlog, 100_000):
        assert backlog.wait(1) == pytest.approx(1 / 3)
        assert backlog.wait(50) == pytest.approx(60 + (60 + 50) / 3)
        assert backlog.wait(1000) == pytest.approx(1060 + (1060 + 1000) / 3)
        assert backlog.wait(100_000) == pytest.approx(101_060)
    with Charge(backlog, 60), Charge(backlog, 120):
        # What is left of the larger one is less than its share.
        assert backlog.wait(10_000) == pytest.approx(180)


def test_the_pace_follows_what_is_measured() -> None:
    backlog = Backlog(1000.0)
    for _ in range(200):
        backlog.measure(10, 0.1)
        backlog.measure(0, 5)  # nothing was done: this says nothing about the pace
        backlog.measure(10**9, 0)  # nor does a clock that stands still
    assert backlog.pace == pytest.approx(100, rel=0.01)
    for _ in range(200):
        backlog.measure(30, 0.1)
    assert backlog.pace == pytest.approx(300, rel=0.01)


def test_a_pause_counts_for_as_long_as_it_was() -> None:
    backlog = Backlog(1000.0)
    for _ in range(1000):
        backlog.measure(1, 0.001)
    backlog.measure(1, 0.2)
    assert 300 < backlog.pace < 700


def test_it_is_the_turn_of_the_oldest_once_others_had_any() -> None:
    backlog = Backlog(1.0)
    assert not backlog.takes_oldest
    backlog.take(1, of_oldest=False)
    assert backlog.takes_oldest
    backlog.take(1, of_oldest=True)
    assert not backlog.takes_oldest


def test_the_oldest_gets_a_quarter_of_what_is_done() -> None:
    backlog = Backlog(1.0)
    done = {True: 0, False: 0}
    for _ in range(1000):
        is_oldest = backlog.takes_oldest
        cost = 500 if is_oldest else 82
        backlog.take(cost, of_oldest=is_oldest)
        done[is_oldest] += cost
    assert done[True] / sum(done.values()) == pytest.approx(0.25, abs=0.01)
