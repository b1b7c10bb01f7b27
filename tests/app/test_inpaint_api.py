"""The /inpaint endpoint, as a client calls it."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from PIL import Image

from app.common import recipes
from app.inpaint.masks import to_image
from app.inpaint.request import mask_from
from app.ui import build, launch_options
from tests.app.test_app_inpaint import MASK, PICTURE, make_engine


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    demo = build(make_engine()[0], Path("runs"))
    _, url, _ = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    yield url
    demo.close()


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("results"))


@pytest.fixture
def files(tmp_path: Path) -> dict:
    PICTURE.save(tmp_path / "a.png")
    to_image(MASK).save(tmp_path / "m.png")
    return {"image": handle_file(str(tmp_path / "a.png")), "mask": handle_file(str(tmp_path / "m.png"))}


def call(client: Client, files: dict, **change: object) -> list[str]:
    settings = {"method": "repaint", "num_inference_steps": 3, "grow": 2, "feather": 1}
    return client.predict(**files | settings | change, api_name="/inpaint")


def test_inpaint_over_the_api(client: Client, files: dict) -> None:
    """Catches files that a client cannot fetch, a change outside the mask, a missing recipe."""
    found = call(client, files, class_label="square", seed=7, num_variants=2)
    assert [Path(file).name for file in found] == ["inpainted-square-7.png", "inpainted-square-8.png"]
    changed = (np.asarray(Image.open(found[1]).convert("RGB")) != np.asarray(PICTURE)).any(-1)
    assert changed[12:24, 14:28].mean() > 0.95
    assert not changed[:7].any()
    recipe = recipes.read(found[1], kind="inpaint")
    assert (recipe["seed"], recipe["class_name"], recipe["method"]) == (8, "square", "repaint")
    assert (mask_from(recipe) == MASK).all()


def picture_file(path: Path, kind: str) -> str:
    """Uploads that make no sense, and what is said of them."""
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    small = {"one pixel": Image.new("RGB", (1, 1)), "another size": Image.new("L", (8, 8), 255)}
    if kind in small:
        small[kind].save(path)
    else:
        path.write_bytes(buffer.getvalue()[:-900] if kind == "truncated" else b"GIF89a, no picture")
    return str(path)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("image", "one pixel", "The mask has 48 x 40 pixels, the picture 1 x 1"),
        ("image", "truncated", "damaged or cut short"),
        ("image", "no picture", "This is not a PNG/JPEG"),
        ("mask", "another size", "The mask has 8 x 8 pixels, the picture 48 x 40: make them the same size"),
        ("mask", "truncated", "damaged or cut short"),
    ],
)
def test_files_that_make_no_sense_are_told(
    client: Client, files: dict, tmp_path: Path, name: str, kind: str, words: str
) -> None:
    """Catches a bare "Error" on a bad upload."""
    bad = handle_file(picture_file(tmp_path / "bad.png", kind))
    with pytest.raises(AppError, match=words):
        call(client, files | {name: bad})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_label": 4}, "Class 4 is out of range"),
        ({"num_variants": 9}, "number of variants must be a whole number from 1 to 8, not 9"),
        ({"seed": -1}, "The seed must be"),
        ({"method": "magic"}, "magic"),
        ({"method": ["mdt"]}, "No inpainting method"),
        ({"model": ["a"]}, "no model"),
        ({"strength": 0}, "strength must be"),
        ({"model": "nobody"}, "no model 'nobody'"),
    ],
)
def test_a_wrong_call_is_told_what_was_wrong(client: Client, files: dict, change: dict, words: str) -> None:
    """Catches a bare "Error", and a value that is silently bent."""
    with pytest.raises(AppError, match=words):
        call(client, files, **change)


def test_files_of_the_server_cannot_be_named(client: Client, files: dict, tmp_path: Path) -> None:
    """Catches an endpoint that opens whatever path a client sends."""
    PICTURE.save(tmp_path / "secret.png")
    for secret in ({"path": str(tmp_path / "secret.png")}, str(tmp_path / "secret.png")):
        with pytest.raises((AppError, ValidationError), match=r"sent as files|Only files that were uploaded"):
            call(client, files | {"image": secret})
