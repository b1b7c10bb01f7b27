"""A class and seed drawn with every checkpoint: what is planned, drawn, kept, stopped, and told where it fails."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.common import recipes
from app.common.comparison import from_recipe
from app.common.images import to_png
from app.engine.engine import Engine
from app.engine.models import Models
from app.engine.request import Request
from app.progress.strip import MOST_STEPS, PictureCache, Strip, chosen_steps, draw, plan, recipe_of, shared_labels
from mdt_core.runs import Run
from tests.helpers.run_folders import CLASSES, see, write_checkpoint, write_run
from tests.helpers.stand_in import StandInPipeline

ASKED = Request("", (1,), (7,), num_inference_steps=3)  # a dog


class Weights(StandInPipeline):
    """Stands in for a checkpoint: every picture is of one colour, by step, class and seed."""

    def __init__(self, location: str):
        super().__init__(dict(enumerate(CLASSES)), seconds=0)
        self.step = int(location[-8:])

    def _gradient(self, label: int | None, seed: int, settings: float) -> np.ndarray:
        return np.full((32, 32, 3), (self.step % 251, 9 if label is None else label, seed))


class Machine:
    """An engine over a folder of runs that notes what it opens, and where its pictures are put."""

    def __init__(self, runs: Path):
        self.opened: list[str] = []
        self.pipes: list[Weights] = []
        self.cache = PictureCache()
        self.folder = runs.parent / "published"
        self.folder.mkdir(exist_ok=True)
        self.engine = Engine(Models({"shapes": "A"}, runs=[runs]), device="cpu", load=self.load)

    def load(self, location: str) -> Weights:
        self.opened.append(Path(location).name)
        self.pipes.append(Weights(location))
        return self.pipes[-1]

    def publish(self, image: Image.Image, name: str, recipe: dict) -> str:
        path = self.folder / f"{name}.png"
        path.write_bytes(to_png(image, recipe))
        return str(path)

    def draw(self, strip: Strip):
        return draw(self.engine, strip, self.cache, self.publish)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run of checkpoints 10, 100 and 1000, and one of 50 and 100."""
    for name, steps in (("mdt", (10, 100, 1000)), ("dit", (50, 100))):
        run = write_run(tmp_path / "runs" / name, steps=steps)
        for step in steps[:-1]:
            run.write_checkpoint(step, write_checkpoint)
    return tmp_path / "runs"


@pytest.fixture
def machine(runs: Path) -> Machine:
    return Machine(runs)


def colours(strip: Strip) -> dict[tuple[str, int], tuple[int, int, int]]:
    return {key: Image.open(file).convert("RGB").getpixel((5, 5)) for key, file in strip.pictures.items()}


def label_classes(run: Path, *names: str) -> None:
    (run / "pipeline" / "model_index.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))


# --- the plan --------------------------------------------------------------------------------------------------------


def test_two_runs_share_their_steps(runs: Path) -> None:
    """Catches strips whose columns are of different steps, and a run that is asked for a checkpoint it has not."""
    strip = plan([see(runs, "mdt"), see(runs, "dit")], ASKED)
    assert (strip.runs, strip.steps, strip.subject) == (("mdt", "dit"), (10, 50, 100, 1000), "dog")
    assert [cell.request.model for cell in strip.cells] == [
        "mdt @ 10",
        "dit @ 50",
        "mdt @ 100",
        "dit @ 100",
        "mdt @ 1000",
    ]
    assert {replace(cell.request, model="") for cell in strip.cells} == {ASKED}


def test_of_many_checkpoints_a_few_are_chosen(runs: Path) -> None:
    """Catches a click that loads a hundred checkpoints, and a choice without the first or the last."""
    for step in range(1000, 5000, 50):
        Run(runs / "mdt").write_checkpoint(step, write_checkpoint)
    steps = chosen_steps([see(runs)])
    assert len(steps) == MOST_STEPS == len(plan([see(runs)], ASKED).cells)
    assert (steps[0], steps[-1]) == (10, 4950)
    assert max(np.diff(steps[2:])) <= 300


def test_a_class_is_found_by_its_name(runs: Path) -> None:
    """Catches another class of the second run under the first one's name, and a class that it has not at all."""
    label_classes(runs / "dit", "dog", "owl")
    both = [see(runs, "mdt"), see(runs, "dit")]
    assert shared_labels(both) == {1: "dog", 2: "owl"}
    labels = {cell.run: cell.request.class_labels for cell in plan(both, ASKED).cells}
    assert labels == {"mdt": (1,), "dit": (0,)}
    unconditional = plan(both, replace(ASKED, class_labels=(None,)))
    assert {cell.request.class_labels for cell in unconditional.cells} == {(None,)}
    with pytest.raises(ValueError, match="dit has no class 'cat'"):
        plan(both, replace(ASKED, class_labels=(0,)))
    with pytest.raises(ValueError, match="mdt has no class 3"):
        plan(both, replace(ASKED, class_labels=(3,)))


def test_what_cannot_be_planned_is_told(runs: Path) -> None:
    """Catches a strip of nothing, and a name from outside that is looked for on the disk."""
    for name in ("mdt", "dit"):
        shutil.rmtree(runs / name / "checkpoints")
    with pytest.raises(ValueError, match="mdt and dit kept no checkpoint to draw with"):
        plan([see(runs, "mdt"), see(runs, "dit")], ASKED)
    with pytest.raises(ValueError, match=r"\.\./secret: There is no run of this name"):
        plan([see(runs, "../secret")], ASKED)


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_every_picture_is_drawn_with_its_own_weights(runs: Path, machine: Machine) -> None:
    """Catches weights that stay in memory for the next picture, a wrong class or seed, and pictures without recipe."""
    strip = plan([see(runs, "mdt"), see(runs, "dit")], ASKED)
    updates = list(machine.draw(strip))
    expected = {
        key: (key[1] % 251, 1, 7) for key in (("mdt", 10), ("dit", 50), ("mdt", 100), ("dit", 100), ("mdt", 1000))
    }
    assert colours(strip) == expected
    assert (strip.done, strip.drawn, strip.problems) == (5, 5, {})
    assert [update.cell for update in updates if update.done] == list(strip.cells)
    assert any(update.preview for update in updates)
    left = [update.seconds_left for update in updates]
    assert min(left[:-2]) > 0 == left[-1]  # the last two: the last step of the last picture, and the picture done
    recipe = recipes.read(strip.pictures["dit", 50])
    assert (recipe["model"], recipe["class_name"], recipe["seed"]) == ("dit @ 50", "dog", 7)


def test_what_was_drawn_is_not_drawn_again(runs: Path, machine: Machine) -> None:
    """Catches a cache that never hits, and one that shows an old checkpoint, seed, setting or a deleted file."""

    def drawn(request: Request = ASKED) -> list[str]:
        machine.opened.clear()
        strip = plan([see(runs)], request)
        list(machine.draw(strip))
        assert (len(strip.pictures), strip.drawn) == (3, len(machine.opened))
        return machine.opened

    every = ["step_00000010", "step_00000100", "step_00001000"]
    assert drawn() == every
    assert drawn() == []
    assert drawn(replace(ASKED, seeds=(8,))) == every
    assert drawn(replace(ASKED, guidance_scale=2.0)) == every
    assert drawn() == []
    Run(runs / "mdt").write_checkpoint(100, write_checkpoint)
    assert drawn() == every[1:2]
    next(machine.folder.glob("mdt-10-dog-7.png")).unlink()
    assert drawn() == every[:1]


def test_the_cache_forgets_its_oldest_pictures(runs: Path, tmp_path: Path) -> None:
    """Catches a server whose memory grows with every picture that anybody asked for."""
    cache = PictureCache(max_files=2)
    cells = plan([see(runs)], ASKED).cells
    for cell in cells:
        cache.keep(cell, str(tmp_path))
    assert [cache.find(cell) for cell in cells] == [None, str(tmp_path), str(tmp_path)]


def test_a_strip_stops_within_a_step(runs: Path, machine: Machine) -> None:
    """Catches a stop that draws on to the end, or leaves the engine locked."""
    strip = plan([see(runs)], replace(ASKED, num_inference_steps=50))
    with closing(machine.draw(strip)) as updates:
        next(update for update in updates if update.cell == strip.cells[1] and not update.done)
    assert machine.opened == ["step_00000010", "step_00000100"]
    assert machine.pipes[-1].log == ["start", "step 0", "closed"]
    assert (list(strip.pictures), strip.done) == ([("mdt", 10)], 1)
    list(machine.engine.run((replace(ASKED, model="mdt @ 10"),)))  # the lock is free


@pytest.mark.parametrize("when", ["seen", "opened", "gone"])
def test_a_bad_checkpoint_is_skipped_with_its_reason(runs: Path, machine: Machine, when: str) -> None:
    """Catches one damaged or deleted checkpoint that takes the pictures of all others with it."""
    folder = Run(runs / "mdt").checkpoints[100]
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    load: Callable[[str], Weights] = machine.engine._load

    def refuse(location: str) -> Weights:
        if location.endswith("100"):
            raise ValueError("its tensors are of another shape")
        return load(location)

    if when == "seen":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif when == "opened":
        machine.engine._load = refuse
    strip = plan([see(runs)], ASKED)
    if when == "gone":
        shutil.rmtree(folder)
    list(machine.draw(strip))
    assert list(strip.pictures) == [("mdt", 10), ("mdt", 1000)]
    words = {"seen": "damaged or cut short", "opened": "of another shape", "gone": "There is no model 'mdt @ 100'"}
    assert words[when] in strip.problems["mdt", 100]
    assert strip.done == 3


def test_a_strip_is_a_comparison_of_its_checkpoints(runs: Path, machine: Machine) -> None:
    """Catches a recipe that Compare cannot load, or that makes other pictures."""
    strip = plan([see(runs, "mdt"), see(runs, "dit")], ASKED)
    assert recipe_of(strip, machine.engine) is None
    list(machine.draw(strip))
    recipe = json.loads(json.dumps(recipe_of(strip, machine.engine)))
    comparison, notes = from_recipe(recipe, machine.engine.describe("mdt @ 10"))
    assert notes == []
    assert {request for request, _ in comparison.batches()} == {cell.request for cell in strip.cells}
    assert comparison.columns.values == ("mdt @ 10", "mdt @ 100", "mdt @ 1000", "dit @ 50", "dit @ 100")
