"""Any checkpoint of a run draws in the browser, presets set what they say, and the first preview comes at once."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.common import recipes
from mdt_core.runs import Run
from tests.browser.conftest import visit
from tests.browser.test_studio import files, generate, put, value_of
from tests.helpers.tiny import NAMES, write_run

OWN = {"num_inference_steps": 9, "guidance_scale": 1.5}  # settings that a model carries


@pytest.fixture
def run(runs: Path) -> Iterator[Run]:
    """A run that comes up while the app is running; it carries settings of its own."""
    run = write_run(runs / "tried", steps=(1, 2))
    index = runs / "tried" / "pipeline" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"sampling_defaults": OWN}))
    yield run
    shutil.rmtree(runs / "tried")


def choose(page: Page, name: str) -> None:
    """Pick a model in the header."""
    page.click("#model input")
    page.locator("#model").get_by_role("option", name=name, exact=True).click()


def test_a_checkpoint_draws_and_a_broken_one_is_told(page: Page, run: Run, tmp_path: Path) -> None:
    """Catches a list made at start, classes and settings of the model before, a recipe that hides the checkpoint, a
    bare "Error"."""
    choose(page, "tried @ 2")
    expect(page.locator("#about")).to_contain_text("tried @ 2")
    expect(page.locator("#generate-classes")).to_contain_text(NAMES[0])
    expect(page.locator("#generate-steps input[type=number]")).to_have_value("9")
    page.click("#generate-advanced > button")
    assert value_of(page, "generate-scale") == 1.5 and value_of(page, "generate-power") == 4
    put(page, "generate-steps", 100)  # long enough for Stop to be seen
    put(page, "generate-count", 1)
    generate(page)
    (tmp_path / "a.png").write_bytes(files(page)[0])
    assert recipes.read(tmp_path / "a.png")["model"] == "tried @ 2"

    next((run.checkpoints[1] / "transformer").glob("*.safetensors")).write_bytes(b"half written")
    choose(page, "tried @ 1")
    expect(page.locator(".toast-body.error")).to_contain_text("cannot be read")
    expect(page.locator("#model input")).to_have_value("tried @ 2")
    generate(page)


def test_presets_set_the_controls_and_say_what_they_take(page: Page) -> None:
    """Catches a preset that sets half of its settings, a figure that never comes, a picker that lies afterwards."""
    presets = page.locator("#generate-preset")
    expect(presets.get_by_text("Balanced · ")).to_be_visible()
    page.click("#generate-advanced > button")
    presets.get_by_label("Slow").click()
    page.wait_for_function("document.querySelector('#generate-steps input[type=number]').value == 250")
    expect(page.locator("#generate-sampler input")).to_have_value("ddpm")
    expect(page.locator("#generate-skip input")).not_to_be_checked()
    expect(page.locator("#generate-note")).to_contain_text("The paper's settings")
    put(page, "generate-steps", 7)
    expect(page.locator("#generate-note")).to_contain_text("Your own settings")
    assert presets.locator("input:checked").count() == 0
    presets.get_by_label("Fast").click()
    page.wait_for_function("document.querySelector('#generate-steps input[type=number]').value == 10")
    expect(page.locator("#generate-skip input")).to_be_checked()
    assert value_of(page, "generate-scale") == 3.8


def test_the_first_preview_does_not_wait_for_the_last_step(page: Page) -> None:
    """Catches previews that arrive together with the result, and a button that answers only when the server does."""
    put(page, "generate-steps", 250)
    put(page, "generate-count", 16)  # long enough to be stopped
    page.evaluate(
        """() => {
          const stage = document.querySelector("#generate-stage");
          const status = document.querySelector("#generate-status");
          const look = () => {
            if (window.first || !stage.querySelector("img")) return;
            window.first = status.innerText;
            document.querySelector("#generate-stop").click();
          };
          new MutationObserver(look).observe(document.body, {childList: true, subtree: true, attributes: true});
        }"""
    )
    page.click("#generate-start")
    page.wait_for_function("window.first")
    assert "250 steps in" not in page.evaluate("window.first")
    expect(page.locator("#generate-status")).to_contain_text("Stopped after step")


# Counts what the browser itself is given to copy that is no object.
COUNT = """const native = window.structuredClone;
window.copies = 0;
window.structuredClone = (value, options) => {
  if (Object(value) !== value) window.copies++;
  return native(value, options);
};"""


def test_a_list_of_a_thousand_classes_is_not_copied_name_by_name(another: Page, url: str) -> None:
    """Catches what took a third of the page's time at every click: tens of thousands of copies, each of one name."""
    another.add_init_script(COUNT)
    visit(another, url)
    another.evaluate("() => { window.copies = 0; }")
    generate(another)
    assert another.evaluate("window.copies") == 0
    copied = "() => { const held = {names: ['a']}; const copy = structuredClone(held); return [copy, copy !== held]; }"
    assert another.evaluate(copied) == [{"names": ["a"]}, True]
    assert another.errors == []
