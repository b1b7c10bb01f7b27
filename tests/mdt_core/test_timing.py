"""Timing by turns: the ratio survives a machine that slows down, and memory is the work's own."""

import pytest
import torch

from mdt_core.bench.timing import PeakMemory, Timing, take_turns


def test_a_ratio_is_that_of_each_round():
    """Catches a ratio of medians: here the machine slows down tenfold, and one work is always twice the other."""
    fast, slow = Timing((1.0, 3.0, 10.0), None), Timing((2.0, 6.0, 20.0), None)
    assert fast.ratio(slow) == 2.0 and fast.median == 3.0 and fast.spread == 1.5


def test_everyone_has_a_turn_in_every_round():
    """Catches work that always runs first or last, and a warm-up that counts."""
    calls = []
    timings = take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2, warmup=2)
    assert "".join(calls) in ("abbaabba", "baabbaab") and len(timings["a"].seconds) == 2


def test_no_rounds_is_an_error():
    with pytest.raises(ValueError, match="repeats"):
        take_turns({"a": int}, repeats=0)


@pytest.mark.skipif(not PeakMemory.STATUS.exists(), reason="reads Linux's /proc")
def test_peak_memory_is_what_was_used_for_a_moment():
    """Catches memory that is read after it was freed."""
    memory = PeakMemory()
    torch.ones(50_000_000).sum()
    assert 190e6 < memory.read() < 260e6
