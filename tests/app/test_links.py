"""Settings that come back: from a link, which anybody may have written, and from what the browser kept."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr
import pytest

from app.common.links import from_query, from_text, to_query, to_text
from app.compare.tab import Compare
from app.engine.engine import Engine
from app.generate.tab import Generate
from app.inpaint.tab import Inpaint
from app.ui import build
from app.walk.tab import Walk
from tests.helpers.stand_in import StandInPipeline


@pytest.fixture(scope="module")
def tabs() -> dict[type, Any]:
    """What handles the page's events, by kind."""
    engine = Engine({"shapes": "A", "others": "B"}, device="cpu", load=lambda _: StandInPipeline())
    owners = [getattr(event.fn, "__self__", None) for event in build(engine, Path("runs")).fns.values()]
    return {type(owner): owner for owner in owners}


def loaded(tab: Any, kept: Any = None, query: str = "") -> dict[str, Any]:
    """What the controls show when the page was loaded."""
    items = parse_qsl(query.removeprefix("?"), keep_blank_values=True)
    request = SimpleNamespace(query_params=SimpleNamespace(multi_items=lambda: items))
    update = tab.bring_settings(kept, "shapes", request)
    if not isinstance(update, dict) or "__type__" in update:
        return {}
    values = {name: update[control] for name, control in tab.by_name.items()}
    return {name: value.get("value") if isinstance(value, dict) else value for name, value in values.items()}


@pytest.mark.parametrize("value", [0, 2.5, True, None, "dylan", "3", "null", "a & b", "x=[1]", ""])
def test_what_a_link_names_is_read_as_it_was(value: Any) -> None:
    """Catches a class called 3 that becomes the fourth one, and a name that ends at its first ampersand."""
    assert from_text(to_text(value)) == value
    tab, settings = from_query(
        parse_qsl(to_query("inpaint", {"a": [value, 1], "b": value})[1:], keep_blank_values=True)
    )
    assert (tab, settings) == ("inpaint", {"a": [value, 1], "b": value})


def test_a_link_brings_its_settings_and_leaves_the_other_tabs_alone(tabs: dict[type, Any]) -> None:
    """Catches a control that is forgotten, and classes that are found by a number that they have here alone."""
    tab = tabs[Generate]
    settings = {
        **{"class_labels": [2, None], "num_images": 5, "seed": 7, "keep_seed": True, "sampler": "ddpm"},
        **{"num_inference_steps": 300, "first_timestep": 850, "guidance_scale": 1.5, "guidance_power": 0.5},
        **{"guidance_kind": "both", "guidance_high": 800, "guidance_low": 100, "distilled": True},
        **{"skip_unconditional": False, "mixed_with": 1, "mixed_share": 0.25},
    }
    info = tab.engine.describe("shapes")
    query = tab.link(info, "shapes", *settings.values())
    assert "class_labels=golden+retriever" in query
    assert loaded(tab, query=query) == settings
    assert loaded(tabs[Inpaint], query=query) == {}


@pytest.mark.parametrize(
    "query",
    [
        *("num_images=1e999", "num_images=[[]]", "num_images=true", "seed=-1", "seed=", "sampler=[]", "sampler=dpm"),
        *("num_inference_steps=2.5", "guidance_scale=NaN", "guidance_power={}", "skip_unconditional=1"),
        *("class_labels=nobody", "class_labels=99", "class_labels={}", "class_labels=[[1]]", "class_labels=true"),
        *("keep_seed=7", "num_inference_steps=" + "9" * 5000, "class_labels=" + "[" * 50_000),
    ],
)
def test_what_makes_no_sense_is_as_on_a_fresh_page(
    query: str, tabs: dict[type, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback, and a setting that no run could use."""
    told: list[str] = []
    monkeypatch.setattr(gr, "Warning", told.append)
    tab = tabs[Generate]
    fresh = tab.set_defaults("shapes")
    assert loaded(tab, query="tab=generate&guidance_scale=2&" + query) == {
        name: value["value"] if isinstance(value := fresh[control], dict) else value
        for name, control in tab.by_name.items()
    } | ({} if "guidance_scale" in query else {"guidance_scale": 2})
    assert len(told) == ("keep_seed" not in query)
    assert all(len(text) < 200 for text in told)


def test_the_browser_brings_back_what_fits(tabs: dict[type, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a kept class that has another number in another model, and a browser whose memory is damaged."""
    monkeypatch.setattr(gr, "Warning", pytest.fail)
    generate, compare = tabs[Generate], tabs[Compare]
    kept = {"model": "shapes", "generate": {"class_labels": [3], "seed": 9, "sampler": "gone", "keep_seed": True}}
    shown = loaded(generate, kept)
    assert (shown["class_labels"], shown["seed"], shown["sampler"], shown["keep_seed"]) == ([3], 9, "dpm++", True)
    assert loaded(generate, {"generate": kept["generate"]}) == shown, "the server's own model"
    assert loaded(generate, kept | {"model": "others"})["class_labels"] == [3]
    assert loaded(generate, kept | {"model": "a third"})["class_labels"] == [0]
    assert loaded(compare, kept) == {}
    for damaged in (None, 7, [], {"generate": 7}, {"generate": []}, {"model": []}):
        assert loaded(generate, damaged) == {}
    shown = loaded(compare, {"compare": {"row_axis": "seed", "row_values": "4, 5", "column_classes": [2, 1]}})
    assert (shown["row_axis"], shown["row_values"], shown["column_classes"]) == ("seed", "4, 5", [2, 1])
    mixed = {"compare": {"column_classes": [2, "circle:0.6,square:0.4", "circle:1,nobody:1"]}}
    assert loaded(compare, mixed)["column_classes"] == [2, "circle:0.6,square:0.4"]
    asked = [value if name != "column_classes" else [2, "circle:0.6,square:0.4"] for name, value in shown.items()]
    link = compare.link(compare.engine.describe("shapes"), "shapes", *asked)
    assert loaded(compare, query=link)["column_classes"] == [2, "circle:0.6,square:0.4"]
    for bad in ({"row_axis": "seed of evil"}, {"row_axis": []}, {"row_values": 7.5}, {"column_classes": {}}):
        assert loaded(compare, {"compare": {"row_axis": "seed"} | bad})["row_axis"] in ("seed", "guidance_scale")


def test_a_walk_comes_back_and_travels(tabs: dict[type, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a film that is gone when the page is loaded again, and ends that change places or seeds."""
    told: list[str] = []
    monkeypatch.setattr(gr, "Warning", told.append)
    walk = tabs[Walk]
    fresh = loaded(walk, query="tab=walk&seconds=2")
    settings = fresh | {"from_class": 2, "to_class": None, "from_seed": 4, "to_seed": 5, "num_frames": 9}
    assert loaded(walk, {"walk": settings}) == settings != fresh
    query = walk.link(walk.engine.describe("shapes"), "shapes", *settings.values())
    assert "from_class=golden+retriever" in query
    assert loaded(walk, query=query) == settings and not told
    assert loaded(walk, query="tab=walk&from_class=nobody&to_seed=-1&num_frames=1e9&sampler=ddpm") == fresh
    assert len(told) == 4


def test_a_method_that_the_model_cannot_do_is_replaced(tabs: dict[type, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a link that leaves Inpaint with a method for another kind of model."""
    tab = tabs[Inpaint]
    assert not tab.engine.describe("shapes").masked_pass
    assert loaded(tab, query="tab=inpaint&method=mdt&grow=11")["method"] == "repaint"


def test_every_control_has_its_line_of_help(tabs: dict[type, Any]) -> None:
    """Catches a word that is left without its meaning."""
    for kind in (Generate, Inpaint, Compare, Walk):
        assert [name for name, control in tabs[kind].by_name.items() if not control.info] == []


def test_the_address_names_a_tab_that_there_is(tabs: dict[type, Any]) -> None:
    """Catches a page without any tab chosen."""
    studio = tabs[Generate].studio
    for name, known in (("inpaint", True), ("training", True), ("nobody", False), ("[]", False)):
        request = SimpleNamespace(query_params=SimpleNamespace(multi_items=lambda name=name: [("tab", name)]))
        update = studio.bring_page(None, "shapes", request)[studio.tabs]
        assert (isinstance(update, gr.Tabs) and update.selected == name) == known
    request = SimpleNamespace(query_params=SimpleNamespace(multi_items=lambda: [("model", "others")]))
    assert studio.bring_page({"model": 7}, "shapes", request)[studio.model]["value"] == "others"
