"""What a visitor has made, and pictures of classes: small pictures that bring something back when they are clicked."""

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app.common.classes.pictures import FILE, class_pictures, picture_sheet, welcome
from app.common.history import MOST
from app.engine.engine import Engine
from app.engine.models import MODELS
from app.engine.request import Request
from app.generate.step_history import publish_pictures
from app.generate.tab import Generate
from app.ui import build
from tests.helpers.stand_in import StandInPipeline


@pytest.fixture(scope="module")
def tab() -> Generate:
    engine = Engine({"shapes": "A"}, device="cpu", load=lambda _: StandInPipeline())
    owners = [getattr(event.fn, "__self__", None) for event in build(engine, Path("runs")).fns.values()]
    return next(owner for owner in owners if isinstance(owner, Generate))


def drawn(tab: Generate, *seeds: int) -> list[str]:
    """Files as a run of these seeds leaves them."""
    request = Request("shapes", (2,) * len(seeds), seeds, num_inference_steps=3, guidance_scale=1.5)
    *_, last = tab.engine.run((request,))
    return publish_pictures(request, last.images, tab.engine.describe("shapes"), tab.gallery)


def test_a_click_brings_back_how_a_picture_was_made(tab: Generate) -> None:
    """Catches a history that grows by what is in it, an order that is turned, and a setting that is lost."""
    history = tab.history
    first, second = drawn(tab, 4, 5), drawn(tab, 9)
    made = history.add(second, history.add(first, [])[history.made])[history.made]
    assert [row["file"] for row in made] == [*second, *first]
    assert history.add(second, made) == gr.skip()
    assert max(Image.open(row["small"]).width for row in made) <= 124
    update = tab.load_made(made, SimpleNamespace(index=2), "shapes")
    assert update[tab.controls.seed] == 5 and update[tab.controls.keep_seed] is True
    assert update[tab.controls.classes]["value"] == [2]
    assert update[tab.controls.settings["guidance_scale"]] == 1.5
    assert len(history.show(made * MOST)[history.made]) == MOST


def test_a_browser_names_no_file_of_the_server(tab: Generate, tmp_path: Path) -> None:
    """Catches a picture from outside the cache that is shown, and a page that fails where one was deleted."""
    history = tab.history
    (file,) = drawn(tab, 6)
    (good,) = history.add([file], [])[history.made]
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    gone = str(Path(file).with_name("gone.png"))
    bad = [good | {"small": str(tmp_path / "secret.png")}, good | {"file": gone}, {}, 7, {"file": [], "small": {}}]
    assert history.bring_back({history.name: [*bad, good]})[history.made] == [good]
    for kept in (None, {}, {history.name: 7}, {history.name: bad}):
        assert history.bring_back(kept) == gr.skip()
    with pytest.raises(gr.Error, match="no longer here"):
        tab.load_made([good | {"file": gone}], SimpleNamespace(index=0), "shapes")


def test_a_model_shows_its_classes_where_it_carries_their_pictures(tmp_path: Path) -> None:
    """Catches a strip of another model's classes, one that is damaged, and a shipped model without one."""
    labels = {0: "red", 1: "<b>"}
    assert class_pictures(str(tmp_path), labels) == {}
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    red.save(tmp_path / FILE, "WEBP", save_all=True, append_images=[blue], lossless=True)
    pictures = class_pictures(str(tmp_path), labels)
    assert [picture.getpixel((4, 4)) for picture in pictures.values()] == [(255, 0, 0), (0, 0, 255)]
    engine = SimpleNamespace(models={"mine": str(tmp_path), "avatars": str(MODELS / "avatars")})
    sheet = picture_sheet(engine, SimpleNamespace(name="mine", labels=labels))
    image = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^)]*)", sheet)[1])))
    halves = np.asarray(image).reshape(96, 2, 96, 3).mean((0, 2))
    assert np.abs(halves - [(255, 0, 0), (0, 0, 255)]).max() < 4
    assert class_pictures(str(tmp_path), labels | {2: "green"}) == {}
    (tmp_path / FILE).write_bytes(b"half written")
    assert class_pictures(str(tmp_path), labels) == {}
    shown = welcome(engine, SimpleNamespace(name="avatars", labels=dict.fromkeys(range(16), "<b>")))
    assert shown.count("background-position") == 16 and "<b>" not in shown and "base64" not in shown
    for name in ("mine", "gone"):
        info = SimpleNamespace(name=name, labels=labels)
        assert "<button" not in welcome(engine, info) and picture_sheet(engine, info) == ""
