"""What strangers send, broken in ways that nobody thought of: it is used, or refused in one short sentence.

Each test knows one kind of input and begins from a good one, which is then damaged. CI tries the same
five hundred of each, within a minute; `make fuzz` tries thousands of others. What was ever found stays as an
`@example`.
"""

import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import gradio as gr
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.common import comparison, recipes
from app.common.errors import MAX_TEXT, plain_errors
from app.common.images import open_image
from app.engine.engine import Engine
from app.engine.models import Models
from app.engine.runs import find_runs, look_at
from app.hosting.guard import Refused, check_files
from app.inpaint.masks import open_mask
from app.inpaint.request import from_recipe, mask_from
from app.teach.dropped import Draft
from app.ui import build
from mdt_core.pipeline.open import open_pipeline
from mdt_core.pipeline.recipe import save_picture
from tests.helpers import run_folders
from tests.helpers.stand_in_inpaint import InpaintingStandIn
from tests.helpers.tiny import tiny_pipeline

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
pytestmark = pytest.mark.slow
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,  # CI tries the same ones every time
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

Edits = list[tuple[float, bytes]]
edits: st.SearchStrategy[Edits] = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), max_size=6)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
)


def damaged(data: bytes, changes: Edits, cut: float) -> bytes:
    """Bytes with some of them overwritten, and the end cut off."""
    broken = bytearray(data)
    for place, new in changes:
        at = int(place * len(broken))
        broken[at : at + len(new)] = new
    return bytes(broken[: int(cut * len(broken))])


def tried(call: Callable[[], Any]) -> Any:
    """What comes out, or None where it was refused as a visitor is told it: in one short sentence."""
    try:
        with plain_errors():
            return call()
    except gr.Error as error:
        assert 1 < len(error.message) < 2 * MAX_TEXT and "\n\n" not in error.message, error.message
        return None


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 20)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@cache
def encoded(kind: str, mode: str) -> bytes:
    """A good file; of a mode that its format does not take, another one."""
    data = io.BytesIO()
    with suppress(OSError):
        picture(mode).save(data, kind)
    return data.getvalue() or encoded(kind, "RGB")


@cache
def engine() -> Engine:
    return Engine({"a": "A"}, device="cpu", load=lambda _: InpaintingStandIn(seconds=0), longest_run=100)


# --- pictures and masks ----------------------------------------------------------------------------------------------


@fuzzed
@given(st.sampled_from(FORMATS), st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]), edits, st.floats(0, 1))
def test_pictures_and_masks(kind: str, mode: str, changes: Edits, cut: float) -> None:
    """Catches a decoder's own exception, and a picture that is not RGB of its own size."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(damaged(encoded(kind, mode), changes, 1 if cut > 0.5 else 2 * cut))
        image = tried(lambda: open_image(path))
        assert image is None or image.mode == "RGB"
        mask = tried(lambda: open_mask(path, (24, 20)))
        assert mask is None or (mask.shape, mask.dtype) == ((20, 24), bool)


@cache
def zipped() -> bytes:
    """Two folders of pictures."""
    data = io.BytesIO()
    with ZipFile(data, "w") as archive:
        for number, packing in enumerate((ZIP_STORED, ZIP_DEFLATED)):
            archive.writestr(f"{number}/a.png", encoded("PNG", "RGB"), packing)
    return data.getvalue()


@fuzzed
@given(edits, st.sampled_from([1.0, 1.0, 0.999, 0.5, 0.0]))
@example([(0.999, b"\x01")], 1.0)
def test_zips(changes: Edits, cut: float) -> None:
    """Catches what a damaged or made-up zip of pictures does to its reader, and a refusal without the file's name."""
    draft = Draft()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "a.zip"
        file.write_bytes(damaged(zipped(), changes, cut))
        try:
            draft.read([[str(file)]], 16)
        except ValueError as error:
            assert str(error).startswith("a.zip "), error
        finally:
            draft.close()


# --- recipes ---------------------------------------------------------------------------------------------------------

RECIPE = {"kind": "generate", "model": "a", "class_label": 1, "class_name": "square", "seed": 3, "sampler": "dpm++"}


@fuzzed
@given(st.sampled_from(["generate", "inpaint", "compare"]), st.dictionaries(st.sampled_from(
    [*RECIPE, "num_inference_steps", "guidance_scale", "mask", "values", "axis", "class_labels", "class_names",
     "versions", "weights", "dtype", "method", "source"]), values))  # fmt: skip
@example("generate", {"seed": float("nan")})
@example("compare", {"class_labels": {}, "values": "x"})
def test_recipes(kind: str, changes: dict) -> None:
    """Catches a recipe that is half taken over, and one whose odd value stops the page."""
    recipe, info = RECIPE | changes | {"kind": kind}, engine().describe("a")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        with suppress(ValueError, TypeError):  # what JSON or PNG cannot hold
            save_picture(picture(), path, recipe)
        read = tried(lambda: recipes.read(path, kind)) if path.exists() else None
    for found in [recipe] + ([read] if read else []):
        if kind == "generate":
            tried(lambda found=found: recipes.to_request(found, info))
        elif kind == "inpaint":
            tried(lambda found=found: (from_recipe(found, info), mask_from(found)))
        else:
            tried(lambda found=found: comparison.from_recipe(found, info))


# --- requests of programs --------------------------------------------------------------------------------------------


@fuzzed
@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()), st.booleans())
@example(b"[" * 2000, True)
def test_requests(body: bytes, fetched: bool) -> None:
    """Catches a request that is neither taken nor refused."""
    with suppress(Refused):
        check_files(body, fetched)


ENDPOINT = ["class_label", "seed", "num_inference_steps", "sampler", "guidance_scale", "guidance_power", "model"]


@cache
def endpoints() -> dict[str, Callable]:
    page = build(engine(), Path("runs"))
    return {event.api_name: event.fn for event in page.fns.values() if event.api_name in ("generate", "inpaint")}


@fuzzed
@given(st.dictionaries(st.sampled_from([*ENDPOINT, "num_images", "skip_unconditional"]), values))
@example({"num_inference_steps": 10**400})
@example({"class_label": "x" * 10**6})
@example({"class_label": ""})
def test_values_of_generate(changes: dict) -> None:
    """Catches a value that is bent without a word, an exception of another kind, and a message as long as its value."""
    files = tried(lambda: list(endpoints()["generate"](**{"num_inference_steps": 2} | changes))[-1])
    assert files is None or all(Path(file.path).is_file() for file in files)


@fuzzed
@given(st.dictionaries(st.sampled_from([*ENDPOINT, "num_variants", "method", "strength", "masked_content", "area",
    "grow", "feather", "image", "mask"]), values))  # fmt: skip
def test_values_of_inpaint(changes: dict) -> None:
    """The same for pictures that are repainted."""
    from gradio.utils import get_upload_folder

    folder = Path(get_upload_folder()) / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    picture(size=(64, 64)).save(folder / "a.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    mask.save(folder / "m.png")
    sent = {"image": {"path": str(folder / "a.png")}, "mask": {"path": str(folder / "m.png")}}
    asked = sent | {"num_inference_steps": 2, "method": "repaint"} | changes
    files = tried(lambda: list(endpoints()["inpaint"](**asked))[-1])
    assert files is None or all(Path(file.path).is_file() for file in files)


# --- models and runs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipe = tiny_pipeline()
    pipe.save_pretrained(folder)
    torch.save(pipe.transformer.state_dict(), folder.parent / "weights.pt")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folders.write_two_runs(tmp_path_factory.mktemp("runs"))


def broken_copy(source: Path, into: Path, which: float, changes: Edits, cut: float) -> Path:
    """A copy of a folder, one of its files damaged."""
    copy = into / source.name
    shutil.copytree(source, copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    file = files[int(which * (len(files) - 1))]
    file.write_bytes(damaged(file.read_bytes(), changes, cut))
    return copy


@pytest.mark.slow
@fuzzed
@given(which=st.floats(0, 1), changes=edits, cut=st.sampled_from([1.0, 1.0, 0.999, 0.5, 0.0]))
def test_model_folders(model: Path, which: float, changes: Edits, cut: float) -> None:
    """Catches a traceback of json, safetensors or torch where a file of a model is damaged."""
    with TemporaryDirectory() as folder:
        copy = broken_copy(model, Path(folder), which, changes, cut)
        tried(lambda: Engine({"a": str(copy)}, device="cpu").describe("a"))


@pytest.mark.slow
@fuzzed
@given(changes=edits, cut=st.sampled_from([1.0, 1.0, 0.999, 0.5, 0.0]))
@example(changes=[(1.0, b"\0\0\0\0"), (1.0, b"\0\0\0\0"), (0.9914675002436424, b"@")], cut=1.0)  # a zip of the future
def test_checkpoints(model: Path, changes: Edits, cut: float) -> None:
    """Catches what a damaged or made-up pickle does to its reader."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pt"
        file.write_bytes(damaged((model.parent / "weights.pt").read_bytes(), changes, cut))
        tried(lambda: open_pipeline(file))


@pytest.mark.slow
@fuzzed
@given(which=st.floats(0, 1), changes=edits, cut=st.sampled_from([1.0, 1.0, 0.5, 0.0]))
def test_run_folders(runs: Path, which: float, changes: Edits, cut: float) -> None:
    """A run that is broken says so; the others, and the list of models, are as they were."""
    with TemporaryDirectory() as folder:
        copy = broken_copy(runs, Path(folder), which, changes, cut)
        found = find_runs([copy])
        assert found
        for name in found:
            tried(lambda name=name: look_at(name, found))
        assert "avatars" in list(Models({"avatars": "A"}, [copy]))
