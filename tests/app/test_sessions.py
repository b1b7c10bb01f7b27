"""What the server remembers of its visitors: little of each, and of no more than so many."""

import gc
import tracemalloc
from pathlib import Path

import gradio as gr
import pytest
from gradio import routes, state_holder

from app.engine.engine import Engine
from app.ui import build
from tests.helpers.stand_in import StandInPipeline


@pytest.fixture(scope="module")
def page() -> gr.Blocks:
    return build(Engine({"a": "A"}, device="cpu", load=lambda _: StandInPipeline()), Path("runs"))


def sessions(page: gr.Blocks, most: int) -> state_holder.StateHolder:
    """As the server makes them."""
    page.state_session_capacity = most
    held = routes.StateHolder()
    held.set_blocks(page)
    return held


def test_a_visitor_takes_little_memory(page: gr.Blocks) -> None:
    """Catches half a megabyte a visitor, and one for every call of a program, of which there may be ten a second."""
    held = sessions(page, 1000)
    state = next(block for block in page.blocks.values() if isinstance(block, gr.State))
    slider = next(block for block in page.blocks.values() if isinstance(block, gr.Slider))
    held["first"][state._id]
    gc.collect()
    tracemalloc.start()
    try:
        for name in map(str, range(10)):
            session = held[name]
            session[state._id] = session[state._id]
            session[slider._id] = slider
            session._update_config(slider._id)
            session._update_value_in_config(slider._id, "x" * 100_000)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / 10 < 60_000
    finally:
        tracemalloc.stop()
    assert session[slider._id] is slider and list(session.components) == []


def test_the_idle_ones_are_forgotten_first(page: gr.Blocks) -> None:
    """Catches a page that loses its pictures because a program made three calls."""
    held = sessions(page, 3)
    state = next(block._id for block in page.blocks.values() if isinstance(block, gr.State))
    for name in ("page", "closed"):
        held[name][state] = name
    for call in range(5):
        held[f"call {call}"]
    assert list(held.session_data) == ["page", "closed", "call 4"]
    held["closed"].is_closed = True
    for name in ("second", "third"):
        held[name][state] = name
    assert list(held.session_data) == ["page", "second", "third"]
    held["page"]
    held["fourth"]
    assert list(held.session_data) == ["third", "page", "fourth"], "of pages the one that was used least lately"
