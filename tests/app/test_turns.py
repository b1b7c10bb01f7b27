"""The engine's queue: first come, first served, visitors in turn, nobody keeps a place that is given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.turns import Turn, Turns


def order_of(turns: Turns, waiting: list[Turn]) -> list[Turn]:
    """Let one after the other have its turn."""
    order = []
    while waiting:
        (turn,) = [turn for turn in waiting if turn.wait(0)]
        order.append(turn)
        waiting.remove(turn)
        turn.close()
    return order


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_visitors_take_turns_and_everyone_knows_the_place(visitors: list[str]) -> None:
    """Catches a visitor with eight runs who is served eight times in a row, and a place that is not kept."""
    turns = Turns(per_visitor=12)
    waiting = [turns.join(visitor) for visitor in visitors]
    places = {turn: turn.before for turn in waiting}
    order = order_of(turns, list(waiting))
    assert [places[turn] for turn in order] == list(range(len(order)))
    served = "".join(str(turn.visitor) for turn in order[1:])  # the first found nobody
    for visitor in set(served):
        own = [turn for turn in waiting if turn.visitor == visitor]
        assert [turn for turn in order if turn.visitor == visitor] == own
        for other in set(served) - {visitor}:  # between two turns of a visitor no other has more than one
            assert all(part.count(other) <= 1 for part in served.split(visitor)[1:-1])


def test_a_place_given_up_is_nobodys() -> None:
    """Catches a queue that stands still behind a visitor who left, waiting or at work."""
    turns = Turns()
    first, second, third = (turns.join() for _ in range(3))
    assert first.wait(0) and [second.before, third.before] == [1, 2]
    second.close()
    second.close()
    assert third.before == 1 and not third.wait(0.001)
    first.close()
    assert third.wait(0) and third.before == 0


def test_a_visitor_and_all_together_have_a_limit() -> None:
    """Catches one client whose runs are all that the queue can hold."""
    turns = Turns(per_visitor=2, in_all=4)
    mine = [turns.join("me"), turns.join("me")]
    with pytest.raises(ValueError, match="2 runs of yours are waiting or going on, more are not taken"):
        turns.join("me")
    for _ in range(2):
        turns.join()
    with pytest.raises(ValueError, match="4 runs are waiting already: try again in some minutes"):
        turns.join("somebody else")
    mine[0].close()
    assert turns.join("somebody else").before == 3


def test_as_many_go_on_together_as_may() -> None:
    """Catches pictures that are opened one by one where two can be, or three."""
    turns = Turns(at_once=2)
    opened = [turns.join() for _ in range(3)]
    assert [turn.wait(0) for turn in opened] == [True, True, False]
    opened[1].close()
    assert opened[2].wait(0)
