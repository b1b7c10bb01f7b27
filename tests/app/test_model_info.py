"""What the engine tells of a model: read once, and again where its files change, and no run is waited for."""

import dataclasses
import threading
import time
from collections.abc import Callable

import pytest
import torch

from app.engine.engine import Engine
from tests.app.test_engine import ONE, make_engine
from tests.helpers.tiny import tiny_pipeline


def test_what_the_page_shows_of_a_model() -> None:
    """Catches a description that loads the model again and again."""
    engine, loaded = make_engine()
    start = time.perf_counter()
    info = engine.describe("a")
    loaded.clear()
    assert engine.describe("a") is info
    assert not loaded
    assert (info.device, info.parameters, info.image_size, info.slow) == ("cpu", 20, 32, False)
    assert info.labels[2] == "golden retriever"
    assert time.perf_counter() - start < 1


def test_a_model_whose_files_change_is_opened_anew(tmp_path) -> None:
    """A run trained again in the same folder. Catches old weights, and old classes on the page."""
    (tmp_path / "transformer").mkdir()
    weights = tmp_path / "transformer" / "model.safetensors"
    weights.write_bytes(b"one")
    engine, loaded = make_engine(a=str(tmp_path))
    list(engine.run((ONE,)))
    first, info = loaded[str(tmp_path)], engine.describe("a")
    list(engine.run((ONE,)))
    assert loaded[str(tmp_path)] is first and engine.describe("a") is info
    weights.write_bytes(b"three")
    assert engine.describe("a") is not info and engine._pipe is loaded[str(tmp_path)] is not first


def in_time(call: Callable[[], object]) -> object:
    """What a call returns; it has ten seconds."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(10)
    assert found, "it waits for a run that goes on"
    return found[0]


def test_a_description_waits_for_no_run_and_leaves_its_model_in_memory(tmp_path) -> None:
    """Catches a visitor who waits for another one's grid, a run whose model is driven out, and a run that waits for
    itself where the files of its own model change."""
    (tmp_path / "model_index.json").write_text("one")
    engine, loaded = make_engine(a=str(tmp_path), b="B")
    frames = engine.run((ONE,))
    next(frames)
    drawing, before = loaded[str(tmp_path)], engine.describe("a")
    assert in_time(lambda: engine.describe("b")).name == "b" and engine.describe("b").labels == loaded["B"].id2label
    (tmp_path / "model_index.json").write_text("three")
    assert in_time(lambda: engine.describe("a")).weights != before.weights
    assert engine._pipe is drawing
    assert len(list(frames)) == 5 and drawing.log[-1] == "closed"
    list(engine.run((ONE,)))
    assert engine._pipe is loaded[str(tmp_path)] is not drawing


def test_a_model_that_is_looked_into_by_many_is_read_once() -> None:
    """Catches a memory full of copies where twenty pages ask for one model while another one draws."""
    engine, _ = make_engine(a="A", b="B")
    read, load = [], engine._load
    engine._load = lambda location: read.append(location) or time.sleep(0.05) or load(location)
    frames = engine.run((ONE,))
    next(frames)
    threads = [threading.Thread(target=engine.describe, args=("b",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == ["A", "B"]


def test_a_model_is_described_alike_whether_it_was_opened_or_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with AMX, whose number format depends on a model's width. Catches a recipe that is said to be of another
    one."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    pipe = tiny_pipeline()
    engine = Engine({"a": "A", "b": "B"}, device="cpu", load=lambda _: pipe)
    opened = engine.describe("a")
    with engine._lock:
        seen = engine.describe("b")
    assert opened.dtype == "float32" and seen == dataclasses.replace(opened, name="b")
