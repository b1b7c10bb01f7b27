"""Inpainting in the app: requests and recipes, the engine's path and the tab's handlers."""

import base64
import dataclasses
import pickle
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app.common import recipes
from app.common.images import publish_picture, to_png
from app.common.presets import preset_of
from app.engine.engine import Engine
from app.engine.frames import PREVIEW_SECONDS
from app.engine.model_info import ModelInfo
from app.engine.settings import MAX_SEED
from app.inpaint.job import InpaintJob, Results
from app.inpaint.page import find_examples
from app.inpaint.painter import mask_of
from app.inpaint.request import MAX_TOTAL, InpaintRequest, from_recipe, mask_from, presets_for, recipe_of
from app.inpaint.source_image import SourceImage
from app.inpaint.tab import Inpaint
from app.ui import build
from mdt_core.fingerprint import fingerprint
from mdt_core.inpainting import METHODS
from mdt_core.samplers import SAMPLERS
from tests.helpers.stand_in_inpaint import InpaintingStandIn
from tests.helpers.tiny import tiny_pipeline

SETTINGS = InpaintRequest("a", (1, 1), (5, 6), method="repaint", num_inference_steps=6, grow=2, feather=1)
PICTURE = Image.effect_noise((48, 40), 80).convert("RGB")
MASK = np.zeros((40, 48), bool)
MASK[10:26, 12:30] = True
NO_DEFAULTS = {
    "guidance_scale": 2.5,
    "guidance_power": 1.25,
    "guidance_kind": "both",
    "guidance_high": 800,
    "guidance_low": 100,
    "num_inference_steps": 9,
    "first_timestep": 850,
    "sampler": "ddim",
    "method": "blend",
    "strength": 0.5,
    "masked_content": "original",
    "area": "masked",
    "grow": 3,
    "feather": 1,
}


def request_for(settings: InpaintRequest, picture: Image.Image, mask: np.ndarray) -> InpaintRequest:
    return dataclasses.replace(settings, image=picture, mask=mask)


def settings_with(*seeds: int) -> InpaintRequest:
    return dataclasses.replace(SETTINGS, seeds=seeds, class_labels=(1,) * len(seeds))


REQUEST = request_for(SETTINGS, PICTURE, MASK)


def make_engine(seconds: float = 0.0) -> tuple[Engine, InpaintingStandIn]:
    pipe = InpaintingStandIn(seconds=seconds)
    return Engine({"a": "A"}, device="cpu", load=lambda _: pipe), pipe


def tab_of(engine: Engine) -> Inpaint:
    """The tab that handles the page's events."""
    handlers = (getattr(event.fn, "__self__", None) for event in build(engine, Path("runs")).fns.values())
    return next(handler for handler in handlers if isinstance(handler, Inpaint))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "magic"}, "no method 'magic': choose one of blend, repaint, mdt"),
        ({"area": None}, "no area None: choose one of whole, crop, masked"),
        ({"masked_content": "x"}, "no masked content 'x'"),
        ({"masked_content": "noise", "strength": 0.5}, "strength 1"),
        ({"sampler": "euler"}, "no sampler 'euler'"),
        ({"sampler": "ddpm", "num_inference_steps": 0}, "steps for ddpm must be a whole number from 1 to 1000, not 0"),
        ({"strength": 0.0}, "strength must be a number from 0.01 to 1, not 0"),
        ({"strength": float("nan")}, "strength"),
        ({"grow": 129}, "grow must be a whole number from 0 to 128, not 129"),
        ({"grow": 1.5}, "grow must be a whole number"),
        ({"feather": -1}, "feather must be"),
        ({"guidance_scale": 11.0}, "guidance scale must be a number from 1 to 10"),
        ({"seeds": (-1, 5)}, "seed must be a whole number from 0"),
        ({"seeds": ()}, "number of variants must be a whole number from 1 to 8, not 0"),
        ({"seeds": (0,) * 9}, "not 9"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_sentence(change: dict, words: str) -> None:
    """Catches a bound that is off by one, NaN that passes, and None taken for a default."""
    with pytest.raises(ValueError, match=words) as caught:
        dataclasses.replace(SETTINGS, **change)
    assert "\n" not in str(caught.value)


def test_many_variants_of_a_huge_picture_are_refused() -> None:
    """8192 x 8192 pixels eight times over are 1.6 GB: catches an app that is killed for its memory."""
    huge = Image.new("1", (8192, 8192))
    request_for(settings_with(*[0] * (MAX_TOTAL // 8192**2)), huge, MASK)
    with pytest.raises(ValueError, match="8 variants of 8192 x 8192 pixels are too many: at most 2"):
        request_for(settings_with(*[0] * 8), huge, MASK)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((40, 48), bool), "the mask is empty"),
        (np.ones((40, 48), bool), "covers the whole picture"),
        (np.arange(40)[:, None] * np.arange(48) == 39 * 47, "less than one of the model's cells"),
    ],
)
def test_masks_that_make_no_sense_are_told_before_the_queue(mask: np.ndarray, words: str) -> None:
    """Catches a visitor who waits for his turn to hear that the mask is empty."""
    with pytest.raises(ValueError, match=words):
        request_for(SETTINGS, PICTURE, mask).box(16, 4)


def test_a_large_picture_is_checked_at_its_own_size() -> None:
    """Catches a mask too small for the model that is told after the queue, and one that fits refused from afar."""
    picture = Image.new("RGB", (2000, 1000))
    small, wide = np.zeros((2, 1000, 2000), bool)
    small[500:530, 500:530] = True
    with pytest.raises(ValueError, match=r'cells, .* pixels: paint more, or choose the area "masked"'):
        request_for(SETTINGS, picture, small).box(16, 4)
    for left in range(1, 1000, 97):
        wide[:] = False
        wide[100:900, left : left + 1000] = True
        request = request_for(dataclasses.replace(SETTINGS, area="crop"), picture, wide)
        request.box(16, 4)
        assert request.small_canvas(16, 4, 640).painted.any()


def test_frames_have_previews_inside_the_picture_and_end_with_the_images() -> None:
    """Catches previews of the model's square alone, a change outside the mask, images of another order."""
    engine, pipe = make_engine(seconds=PREVIEW_SECONDS + 0.01)
    frames = list(engine.run((REQUEST,)))
    assert [frame.index for frame in frames] == list(range(6))
    assert [frame.images is not None for frame in frames] == [False] * 5 + [True]
    assert sum(frame.x_0 is not None for frame in frames) >= 4
    known = np.asarray(PICTURE)
    for image in frames[0].x_0 + frames[-1].images:
        assert image.size == PICTURE.size
        changed = (np.asarray(image) != known).any(-1)
        assert changed[12:24, 14:28].mean() > 0.95
        assert not changed[:7].any()
        assert not changed[:, 33:].any()
    assert frames[-1].images[0].tobytes() != frames[-1].images[1].tobytes()
    assert [asked["seeds"] for asked in pipe.asked] == [[5, 6]], "all variants are one batch"
    assert {asked["method"] for asked in pipe.asked} == {"repaint"}
    assert pickle.loads(pickle.dumps(frames[-1])).index == 5
    assert pickle.loads(pickle.dumps(REQUEST)).image.tobytes() == PICTURE.tobytes()


def test_a_run_that_ends_leaves_another_picture_alone() -> None:
    """Opened and painted on meanwhile: catches its mask lost under the result of the picture before."""
    tab = tab_of(make_engine()[0])
    before, now = SourceImage(PICTURE, "before"), SourceImage(PICTURE, "now")
    job = InpaintJob(REQUEST, before)
    job.done, job.total = 3, 6
    after_another = tab._load(now)[tab.job]
    assert tab.finish(after_another).keys() == {tab.start, tab.stop, tab.status}
    assert tab.finish(job).keys() > {tab.start, tab.stop, tab.status} and not job.running


def test_what_a_page_kept_is_brought_back(tmp_path: Path) -> None:
    """The browser says which files: catches one of the server's that is opened, and a page that fails without them."""
    tab = tab_of(make_engine()[0])
    picture = publish_picture(PICTURE, "kept", tab.painter)
    value = tab._load(SourceImage.open(picture), MASK)[tab.painter]["value"]
    kept = {"picture": value["source"], "name": value["name"], "mask": value["mask"]}
    update = tab.bring_back({"painting": kept})
    source = update[tab.source]
    assert source.image().tobytes() == PICTURE.tobytes() and source.name == "kept"
    value = tab.painter.postprocess(update[tab.painter]["value"])
    assert (mask_of(tab.painter.preprocess(value), source) == MASK).all()
    PICTURE.save(tmp_path / "secret.png")
    secret = str(tmp_path / "secret.png")
    gone = str(Path(picture).with_name("gone.png"))
    for bad in (None, {}, 5, kept | {"picture": secret}, kept | {"mask": secret}, kept | {"picture": gone}):
        assert tab.bring_back({"painting": bad}) == tab.bring_back(bad) == gr.skip()


def test_painting_on_a_result_keeps_the_mask_if_wished() -> None:
    """Catches a mask that is lost, and one that is kept unasked."""
    tab = tab_of(make_engine()[0])
    source = SourceImage(PICTURE)
    painted = tab.painter.preprocess(tab.painter.postprocess(tab.painter.show(source, MASK)))
    results = Results([publish_picture(PICTURE, "a", tab.painter)], [], "", ["seed 5"])
    for keep in (True, False):
        update = tab.load_variant(painted, keep, results, source)
        value = tab.painter.preprocess(tab.painter.postprocess(update[tab.painter]["value"]))
        assert (mask_of(value, update[tab.source]) == (MASK & keep)).all()


def test_closing_stops_within_a_step_and_frees_the_model() -> None:
    """Catches a run that goes on unseen after Stop."""
    engine, pipe = make_engine()
    frames = engine.run((request_for(settings_with(5), PICTURE, MASK),))
    next(frames)
    frames.close()
    assert pipe.log == ["start", "step 0", "closed"]
    assert len(list(engine.run((REQUEST,)))) == 6


def test_previews_of_a_large_picture_are_small() -> None:
    """Catches a browser that is sent pictures of 4000 pixels several times a second; the result keeps its size."""
    engine, _ = make_engine()
    large = Image.effect_noise((4000, 3000), 80).convert("RGB")
    mask = np.zeros((3000, 4000), bool)
    mask[1000:1800, 1000:1800] = True
    frames = list(engine.run((request_for(settings_with(1), large, mask),)))
    assert max(frames[0].x_0[0].size) <= 640
    assert frames[-1].images[0].size == (4000, 3000)
    assert (np.asarray(frames[-1].images[0])[:990] == np.asarray(large)[:990]).all()


@pytest.mark.parametrize(("method", "strength"), [("mdt", 1.0), ("repaint", 0.6), ("blend", 0.3)])
def test_the_time_left_knows_what_the_pipeline_will_do(method: str, strength: float) -> None:
    """Repeated steps, a shorter trajectory, passes left out: catches an estimate for other steps than those to come."""
    change = {"method": method, "strength": strength, "num_inference_steps": 9, "masked_content": "auto"}
    request = dataclasses.replace(REQUEST, class_labels=(0, 1), **change)
    pipe, passes = tiny_pipeline(), []
    stream = pipe.stream_inpaint
    pipe.stream_inpaint = lambda *asked, **more: (passes.append(s.evaluations) or s for s in stream(*asked, **more))
    *_, last = request.frames(pipe)
    assert (last.evaluations, last.total) == (passes[-1], len(passes))
    assert last.evaluations == sum(request.evaluations)


# --- recipes -----------------------------------------------------------------------------------------------


def test_a_recipe_keeps_every_setting_the_mask_and_the_picture_it_was_for(tmp_path: Path) -> None:
    """Catches a setting that is forgotten, a batch's seed, and a mask that is inverted."""
    engine, _ = make_engine()
    info = engine.describe("a")
    settings = InpaintRequest("a", (2, 2), (7, 8), **NO_DEFAULTS)
    request = request_for(settings, PICTURE, MASK)
    (tmp_path / "a.png").write_bytes(to_png(PICTURE, recipe_of(request, 1, info)))
    recipe = recipes.read(tmp_path / "a.png", kind="inpaint")
    found, notes = from_recipe(recipe, info)
    assert notes == []
    assert found == dataclasses.replace(settings, seeds=(8,), class_labels=(2,))
    assert (mask_from(recipe) == MASK).all()
    turned = PICTURE.transpose(Image.Transpose.ROTATE_180)
    assert recipe["source"] == fingerprint(PICTURE.tobytes()) != fingerprint(turned.tobytes())


def test_a_strangers_recipe_is_taken_with_care() -> None:
    """Catches an exception, or a bad value that reaches the controls."""
    engine, _ = make_engine()
    info = engine.describe("a")
    bad = {"kind": "inpaint", "model": "b", "seed": "x", "method": ["mdt"], "grow": 1e9, "sampler": "dpm++"}
    settings, notes = from_recipe(bad | {"class_label": 99, "class_name": "?"}, info)
    assert (settings.seeds, settings.grow, settings.sampler, settings.class_labels) == ((0,), 8, "dpm++", (None,))
    assert settings.method == "repaint", "this model has no side-interpolator"
    assert any("method" in note for note in notes)
    assert any("side-interpolator" in note for note in notes)
    for mask in (None, 5, "no base64!", base64.b64encode(b"no picture").decode()):
        assert mask_from({"mask": mask}) is None


# --- controls ----------------------------------------------------------------------------------------------


def test_controls_and_settings_are_each_others_inverse() -> None:
    """Catches controls in another order than their values."""
    engine, _ = make_engine()
    controls = tab_of(engine).controls
    settings = InpaintRequest("a", (2, 2, 2), (7, 8, 9), **NO_DEFAULTS)
    updates = controls.updates(settings, engine.describe("a"))
    values = {key: update.get("value") if isinstance(update, dict) else update for key, update in updates.items()}
    assert controls.request("a", *[values[control] for control in controls.inputs]) == settings
    values[controls.seed] = MAX_SEED
    assert controls.request("a", *[values[control] for control in controls.inputs]).seeds == (MAX_SEED, 0, 1)
    for seed in (None, 0.5, -1):
        values[controls.seed] = seed
        with pytest.raises(ValueError, match="The seed must be a whole number"):
            controls.request("a", *[values[control] for control in controls.inputs])


def test_presets_suit_the_model() -> None:
    """Catches "mdt" offered by a model without side-interpolator."""
    engine, _ = make_engine()
    plain = engine.describe("a")
    able = dataclasses.replace(plain, masked_pass=True)

    def settings(name: str, info: ModelInfo) -> InpaintRequest:
        return InpaintRequest("a", (None,), (0,), **presets_for(info)[name])

    assert settings("Best", plain).method == "repaint"
    assert settings("Best", able).method == "mdt"
    assert settings("Fast", able).num_inference_steps < settings("Best", able).num_inference_steps
    first_timestep = METHODS["mdt"].first_timestep
    assert all(preset["first_timestep"] == first_timestep for preset in presets_for(able).values())
    best, presets = settings("Best", able), presets_for(able)
    other = next(sampler for sampler in SAMPLERS if sampler != best.sampler)
    assert preset_of(best, presets) == "Best" and preset_of(dataclasses.replace(best, sampler=other), presets) is None
    assert preset_of(settings("Fast", plain), presets_for(plain)) == "Fast"
    assert preset_of(settings("Fast", plain), presets) is None  # RePaint, which no preset chooses there


def test_the_examples_are_pictures_with_masks(tmp_path: Path) -> None:
    """Catches a picture whose mask is missing or of another size."""
    examples = find_examples()
    assert len(examples) == 4
    for picture, mask in examples:
        with Image.open(picture) as a, Image.open(mask) as b:
            assert a.size == b.size
    Image.new("L", (8, 8)).save(tmp_path / "alone.png")
    assert find_examples(tmp_path) == []
