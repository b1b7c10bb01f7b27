"""Recipes: what goes into a PNG comes out again; what comes from a stranger does no harm."""

import dataclasses
import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from app.common import recipes
from app.common.comparison import Comparison, Side, from_recipe, to_recipe
from app.common.images import to_png
from app.engine.model_info import ModelInfo
from app.engine.request import Request
from app.engine.settings import MAX_SEED
from mdt_core.pipeline.recipe import KEY, save_picture

INFO = ModelInfo("avatars", "MDTv2", 10, {0: "circle", 1: "naïve ☂", 2: "crane", 3: "crane"}, 32, 8, 4, True, "cpu")
PICTURE = Image.linear_gradient("L").convert("RGB")


def save(folder: Path, recipe: object, key: str = KEY) -> Path:
    """A PNG that carries `recipe` as it is."""
    text = PngInfo()
    text.add_itxt(key, recipe if isinstance(recipe, str) else json.dumps(recipe))
    PICTURE.save(folder / "recipe.png", pnginfo=text)
    return folder / "recipe.png"


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([None, 0, 1, 2, 3]),
    st.integers(0, MAX_SEED),
    st.sampled_from([("dpm++", 250), ("ddim", 250), ("ddpm", 1000)]),
    st.floats(0, 1),
    st.floats(1, 10),
    st.floats(0.01, 8),
)
def test_a_recipe_comes_back_from_the_png(
    tmp_path_factory, label: int | None, seed: int, sampler: tuple[str, int], share: float, scale: float, power: float
) -> None:
    """Catches rounded floats, lost seeds, steps checked against the wrong sampler, two classes of one name."""
    steps = 1 + round(share * (sampler[1] - 1))
    request = Request("avatars", (0, label), (9, seed), scale, power, steps, sampler[0])
    path = tmp_path_factory.mktemp("recipe") / "a.png"
    path.write_bytes(to_png(PICTURE, recipes.of_image(request, 1, INFO)))
    found, notes = recipes.to_request(recipes.read(path), INFO)
    assert found == Request("avatars", (label,), (seed,), scale, power, steps, sampler[0])
    assert notes == []
    assert Image.open(path).convert("RGB").tobytes() == PICTURE.tobytes()


def test_a_recipe_says_what_could_change_the_pixels() -> None:
    """Catches a field that is forgotten."""
    recipe = recipes.of_image(Request("avatars", (1,), (7,)), 0, INFO)
    assert {key: recipe[key] for key in ("model", "class_label", "class_name", "seed")} == {
        "model": "avatars",
        "class_label": 1,
        "class_name": "naïve ☂",
        "seed": 7,
    }
    assert recipe["versions"].keys() == {"torch", "diffusers"}


def test_another_models_recipe_is_taken_over_by_class_name() -> None:
    """Catches an index that means another class in another model."""
    other = ModelInfo("emoji", "MDTv2", 10, {0: "square", 1: "circle"}, 32, 8, 4, True, "cpu")
    recipe = recipes.of_image(Request("avatars", (0,), (7,)), 0, INFO)
    request, notes = recipes.to_request(recipe, other)
    assert request.class_labels == (1,)
    assert request.model == "emoji"
    assert notes == ["made with another model, 'avatars'"]
    request, notes = recipes.to_request(recipes.of_image(Request("avatars", (2,), (7,)), 0, INFO), other)
    assert request.class_labels == (None,)
    assert notes[-1] == "emoji has no class 'crane'"


def test_what_has_changed_since_is_said() -> None:
    """Catches "the same picture again" where a model was trained on under its name, or a library is another one."""
    then = dataclasses.replace(INFO, weights="0123", dtype="float32")
    recipe = recipes.of_image(Request("avatars", (0,), (7,)), 0, then)
    assert recipes.differences(recipe, then) == []
    assert recipes.differences({key: value for key, value in recipe.items() if key != "weights"}, then) == []  # older
    now = dataclasses.replace(then, weights="4567", dtype="bfloat16")
    recipe["versions"] = recipe["versions"] | {"torch": "2.7.0+cu128"}
    weights, dtype, torch = recipes.differences(recipe, now)
    assert weights == "avatars has other weights now: another picture comes out"
    assert dtype.startswith("made in 'float32', not in bfloat16")
    assert torch.startswith("made with torch '2.7.0', not 2.") and "+" not in torch


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"seed": -1}, "its seed is missing or not usable"),
        ({"seed": 10**30}, "its seed is missing or not usable"),
        ({"seed": "7"}, "its seed is missing or not usable"),
        ({"seed": None}, "its seed is missing or not usable"),
        ({"num_inference_steps": 10**9}, "its number of steps is missing or not usable"),
        ({"sampler": ["dpm++"]}, "its sampler is missing or not usable"),
        ({"sampler": {}}, "its sampler is missing or not usable"),
        ({"guidance_scale": float("nan")}, "its guidance scale is missing or not usable"),
        ({"guidance_power": float("inf")}, "its guidance power is missing or not usable"),
        ({"guidance_power": 10**400}, "its guidance power is missing or not usable"),
        ({"class_label": 99, "class_name": "<script>"}, "avatars has no class '<script>'"),
        ({"class_label": [], "class_name": {}}, "avatars has no class {}"),
        ({"class_label": True, "class_name": None}, "avatars has no class None"),
        ({"class_name": "x" * 5000}, "avatars has no class 'xxx"),
    ],
)
def test_a_useless_value_is_named_and_the_rest_taken_over(tmp_path: Path, change: dict, note: str) -> None:
    """Catches a reader that gives up, or passes on what a stranger wrote."""
    recipe = recipes.of_image(Request("avatars", (0,), (7,), guidance_scale=2.0, guidance_power=3.0), 0, INFO)
    request, notes = recipes.to_request(recipes.read(save(tmp_path, recipe | change)), INFO)
    assert len(notes) == 1
    assert notes[0].startswith(note)
    assert len(notes[0]) < 100
    expected = {"seed": (7,), "guidance_scale": 2.0, "guidance_power": 3.0}
    kept = {"seed": request.seeds, "guidance_scale": request.guidance_scale, "guidance_power": request.guidance_power}
    assert {k: v for k, v in kept.items() if k not in change} == {k: v for k, v in expected.items() if k not in change}


def test_true_is_no_class() -> None:
    """Catches `true` taken for class 1, which a request then holds as a truth value."""
    recipe = recipes.of_image(Request("avatars", (1,), (7,)), 0, INFO) | {"class_label": True}
    (label,) = recipes.to_request(recipe, INFO)[0].class_labels
    assert label == 1 and type(label) is int  # found by its name


def test_an_older_recipe_is_guided_as_it_was() -> None:
    """Catches a note for what older recipes do not say, and the model's own interval in its place."""
    info = dataclasses.replace(
        INFO,
        sampling_defaults={
            **{"guidance_low": 300, "guidance_kind": "mask", "num_inference_steps": 8, "first_timestep": 850}
        },
    )
    recipe = recipes.of_image(Request("avatars", (0,), (7,)), 0, info)
    for key in ("guidance_kind", "guidance_high", "guidance_low", "skip_unconditional", "first_timestep"):
        del recipe[key]
    assert recipes.to_request(recipe, info) == (Request("avatars", (0,), (7,)), [])


def test_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    """Catches a reader that only knows its own fields."""
    recipe = recipes.of_image(Request("avatars", (0,), (7,)), 0, INFO) | {"new": {"deep": [1, 2]}}
    assert recipes.to_request(recipes.read(save(tmp_path, recipe)), INFO) == (Request("avatars", (0,), (7,)), [])


@pytest.mark.parametrize("text", ["", "nonsense", "[1, 2]", "null", "{" * 3, "[" * 100_000])
def test_damaged_recipes_are_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    """Catches a JSON error, or a deep nesting, that reaches the visitor as a traceback."""
    with pytest.raises(ValueError, match=r"The recipe in this picture is damaged\."):
        recipes.read(save(tmp_path, text))


def test_pictures_without_a_recipe_are_refused(tmp_path: Path) -> None:
    """Catches a foreign PNG, another format, no picture at all, a cut file."""
    with pytest.raises(ValueError, match="carries no recipe"):
        recipes.read(save(tmp_path, "{}", key="parameters"))
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "A holiday"
    PICTURE.save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(ValueError, match="carries no recipe"):
        recipes.read(tmp_path / "a.jpg")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match="not a PNG/JPEG/WEBP picture"):
        recipes.read(tmp_path / "text.png")
    PICTURE.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"damaged|no recipe"):
        recipes.read(tmp_path / "cut.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_every_format_that_can_hold_a_recipe_does(tmp_path: Path, suffix: str) -> None:
    """Catches names lost outside ASCII, and a JPEG or WebP that forgets how it was made."""
    recipe = recipes.of_image(Request("avatars", (1,), (7,)), 0, INFO)
    save_picture(PICTURE, tmp_path / f"a.{suffix}", recipe)
    assert recipes.read(tmp_path / f"a.{suffix}") == recipe


def test_a_text_that_swells_when_unpacked_is_refused(tmp_path: Path) -> None:
    """A compressed text of 100 MB in a small file: catches a reader that unpacks it all."""
    PICTURE.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    body = KEY.encode() + b"\0\0" + zlib.compress(b" " * 100_000_000, 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(ValueError, match=r"not a PNG/JPEG/WEBP picture|damaged|no recipe"):
        recipes.read(tmp_path / "a.png")


def test_a_text_behind_the_pixels_is_found(tmp_path: Path) -> None:
    """Some programs move the texts there when they save a PNG again."""
    recipe = recipes.of_image(Request("avatars", (0,), (7,)), 0, INFO)
    data = to_png(PICTURE, recipe)
    start = data.index(b"iTXt") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    (tmp_path / "a.png").write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert recipes.read(tmp_path / "a.png") == recipe


def test_a_grids_recipe_comes_back_and_belongs_to_its_tab(tmp_path: Path) -> None:
    """Catches a Compare recipe that loads half on Generate, and rows or columns that are lost."""
    base, steps = Request("avatars", (2,), (7,), guidance_scale=2.5), Side("num_inference_steps", (5, 25))
    for rows in (Side("class", (None, 1, 3)), Side("model", ("a", "b")), Side("seed", (4, 9))):
        comparison = Comparison(base, steps, rows)
        (tmp_path / "a.png").write_bytes(to_png(PICTURE, to_recipe(comparison, INFO)))
        assert from_recipe(recipes.read(tmp_path / "a.png", "compare"), INFO) == (comparison, [])
    with pytest.raises(ValueError, match="recipe for another tab: 'compare'"):
        recipes.read(tmp_path / "a.png")


@pytest.mark.parametrize(
    "change",
    [
        *({"columns": side} for side in (None, 5, [], "class", {}, {"axis": "seed"}, {"values": [1]})),
        *({"rows": {"axis": axis, "values": [1]}} for axis in ("eta", ["sampler"], None, 5, {})),
        *({"rows": {"axis": "seed", "values": values}} for values in (5, "12", None, {}, [], [[5]], [True], [-1])),
        *({"rows": {"axis": "class", "values": [value]}} for value in (5, None, "circle", [], {"class_name": "x"})),
        {"rows": {"axis": "seed", "values": list(range(100))}},
        {"rows": {"axis": "class", "values": [{}] * 1_000_000}},
        {"rows": {"axis": "guidance_scale", "values": [10**400]}},
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(tmp_path: Path, change: dict) -> None:
    """Catches TypeError and KeyError on what a stranger wrote."""
    classes, steps = Side("class", (0, 1)), Side("num_inference_steps", (5, 25))
    recipe = to_recipe(Comparison(Request("avatars", (None,), (7,)), classes, steps), INFO)
    with pytest.raises(ValueError):
        from_recipe(recipes.read(save(tmp_path, recipe | change), "compare"), INFO)


def test_a_grid_from_before_there_were_two_sides_opens() -> None:
    """Classes down, one setting across. Catches a recipe of an older version that is called damaged."""
    request = Request("avatars", (None,), (7,))
    old = {"class_labels": [1, None], "class_names": ["naïve ☂", None], "axis": "guidance_scale", "values": [1, 2]}
    recipe = recipes.of_image(request, 0, INFO) | {"kind": "compare"} | old
    expected = Comparison(request, Side("guidance_scale", (1, 2)), Side("class", (1, None)))
    assert from_recipe(recipe, INFO) == (expected, [])
    for change in ({"class_labels": None}, {"values": 5}, {"axis": ["sampler"]}, {"class_names": ["nobody"] * 2}):
        with pytest.raises(ValueError):
            from_recipe(recipe | change, INFO)


def test_a_grids_class_that_a_model_lacks_is_left_out() -> None:
    """Catches a row of no class in its place."""
    classes, other = Side("class", (0, 1, None)), dataclasses.replace(INFO, labels={0: "circle"})
    recipe = to_recipe(Comparison(Request("avatars", (0,), (7,)), classes, Side("seed", (1,))), INFO)
    comparison, notes = from_recipe(json.loads(json.dumps(recipe)), other)
    assert comparison.columns == Side("class", (0, None)) and notes == ["avatars has no class 'naïve ☂'"]
    mix = recipes.class_of(((0, 1), (2, 3)), INFO)
    strange = json.loads(json.dumps(recipe | mix | {"columns": {"axis": "class", "values": [mix, {}]}}))
    comparison, notes = from_recipe(strange, INFO)
    assert (comparison.base.class_labels, comparison.columns.values) == ((0,), (((0, 1), (2, 3)), None))
    assert notes == ["there is no place here for a mix of classes (circle 25% + crane 75%)"]
