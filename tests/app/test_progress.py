"""Training runs as the page shows them: what is read, when it is read again, and what is told of broken ones."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from app.engine.models import SHIPPED_RUNS
from app.engine.runs import LIVE_SECONDS, find_runs, look_at
from app.progress.strip import samples_of
from app.progress.tab import opening_runs
from app.progress.view import view
from mdt_core.runs import Run
from tests.helpers.run_folders import CLASSES, picture, see, write_checkpoint, write_run, write_two_runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_two_runs(tmp_path / "runs")


def test_a_run_is_read_whole(runs: Path) -> None:
    """Catches a column, a curve or a step that is read from the wrong place."""
    run = see(runs)
    assert (run.problem, run.model, run.classes) == ("", "MDTv2-S/2", tuple(CLASSES))
    assert (run.steps, run.total, run.speed) == (1000, 1000, 8.0)
    assert list(run.loss) == [(10, 0.1), (100, 0.01), (1000, 0.001)]
    assert list(run.kid) == [(10, 0.05), (100, 0.005), (1000, 0.0005)]
    sheets = {step: (sheet.size, sheet.columns, sheet.rows) for step, sheet in run.sheets.items()}
    assert sheets == dict.fromkeys((10, 100, 1000), ((24, 16), 3, 2))
    assert run.checkpoints == {1000: ""}
    assert run.labels == dict(enumerate(CLASSES))


def test_what_was_read_is_kept_until_a_file_changes(runs: Path) -> None:
    """Catches a poll that opens every picture every two seconds, and one that does not see a new row or picture."""
    first = see(runs)
    assert see(runs) is first
    Run(runs / "mdt").log({"step": 1001, "loss": 0.5})
    second = see(runs)
    assert list(second.loss)[-1] == (1001, 0.5)
    assert second.version != first.version
    assert second.sheets[10] is first.sheets[10]
    Run(runs / "mdt").write_sample(1001, picture())
    assert 1001 in see(runs).sheets


def test_a_run_is_live_while_it_is_written(runs: Path) -> None:
    """Catches a finished run that is said to be trained, and a killed one that is so for ever."""
    run = see(runs, "dit")
    assert run.live
    assert run.seconds_left == 300 * 16 / 8
    assert not see(runs).live
    object.__setattr__(run, "last_written", run.last_written - LIVE_SECONDS)
    assert not run.live


def test_the_page_opens_with_what_is_trained_now(runs: Path, tmp_path: Path) -> None:
    """Catches a page that hides the run one has just started behind an older one."""
    assert opening_runs(find_runs([runs]), tmp_path / "shipped") == ["dit"]
    shutil.rmtree(runs / "dit")
    shipped = tmp_path / "shipped"
    for name in "abc":
        write_run(shipped / name)
    assert opening_runs(find_runs([runs, shipped]), shipped) == ["a", "b"]
    shutil.rmtree(shipped / "b" / "checkpoints")  # its pictures alone are left
    assert opening_runs(find_runs([runs, shipped]), shipped) == ["a", "c"]
    shutil.rmtree(shipped / "c")
    assert opening_runs(find_runs([runs, shipped]), shipped) == ["a", "b"]
    assert opening_runs(find_runs([runs]), tmp_path / "shipped") == ["mdt"]


def test_the_page_opens_on_dit_beside_mdtv2() -> None:
    """Catches a page that opens with runs that nobody compares, and shipped runs with less to see than a strip."""
    found = find_runs([SHIPPED_RUNS])
    opened = [look_at(name, found) for name in opening_runs(found, SHIPPED_RUNS)]
    assert [run.model for run in opened] == ["DiT-XS/2", "MDTv2-XS/2"]
    for run in opened:
        assert len({step for _, step in samples_of([run], "dylan")}) >= 4


def test_only_training_runs_are_found(runs: Path) -> None:
    """Catches an autoencoder's folder, a picture, or a half-written run's hidden folder among the runs."""
    (runs / "autoencoder").mkdir()
    (runs / "autoencoder" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (runs / "autoencoder" / "checkpoints" / "step_00000002" / "vae").mkdir(parents=True)
    (runs / "list").mkdir()
    (runs / "list" / "config.json").write_text("[]")
    (runs / ".mdt.partial" / "samples").mkdir(parents=True)
    (runs / "samples.npz").write_bytes(b"")
    Run(runs / "new").write_config({"training": {"steps": 10}})
    assert list(find_runs([runs, runs / "nothing"])) == ["dit", "mdt", "new"]
    assert see(runs, "new").problem == ""
    assert find_runs([runs / "nothing"]) == {}


# --- broken runs -------------------------------------------------------------------------------------------------


def test_a_folder_that_may_not_be_read_hides_no_other(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches runs behind a stranger's folder that are not offered."""
    names = sorted(find_runs([runs]))
    assert len(names) > 1
    is_dir = Path.is_dir

    def refuse(path: Path) -> bool:
        if path.parent.name == names[0]:
            raise PermissionError(path)
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert sorted(find_runs([runs]))[-1] == names[-1] and names[0] not in find_runs([runs])


@pytest.mark.parametrize(
    "text",
    [
        *('{"model": ', "\udcff", '{"training": 7}', "[]", '{"samples_per_class": "x"}', "[" * 9999),
        *('{"training": {"steps": Infinity}}', '{"training": {"steps": NaN}}', '{"samples_per_class": 1e999}'),
    ],
)
def test_a_broken_configuration_is_told(runs: Path, text: str) -> None:
    """Catches a page that dies of one bad run."""
    (runs / "mdt" / "config.json").write_text(text, errors="surrogateescape")
    assert see(runs).problem
    assert see(runs).problem.endswith(".")
    assert see(runs, "dit").problem == ""
    assert "problem" in view([see(runs), see(runs, "dit")], 0, lambda sheet: "x")


@pytest.mark.parametrize("number", ["Infinity", "NaN", "-Infinity", "1e999", "1" + "0" * 400, "[]", "null", '"5"'])
def test_a_number_that_is_none_costs_no_more_than_its_row(runs: Path, number: str) -> None:
    """JSON as Python reads it has infinities. Catches a run that breaks the page, or is lost, for one row."""
    before = see(runs)
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        lines = (runs / "mdt" / name).read_text()
        row = f'{{"step": {number}, "loss": 0.5}}\n{{"step": 500, "loss": {number}, "kid_efflite0": {number}}}\n'
        (runs / "mdt" / name).write_text(row + lines)
    run = see(runs)
    assert run.problem == "" and (run.sheets, list(run.kid)) == (before.sheets, list(before.kid))
    assert [point for point in run.loss if point[0] != 5] == list(before.loss)
    assert "stroke: var(--run-0)" in view([run, see(runs, "dit")], 0, lambda sheet: "x")


@pytest.mark.parametrize("number", ["Infinity", "1" + "0" * 400])
def test_a_speed_that_is_no_number_is_told(runs: Path, number: str) -> None:
    """Catches a division that breaks the page."""
    with (runs / "mdt" / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 1000, "images_per_second": {number}}}\n')
    view([see(runs)], 0, lambda sheet: "x")


def test_a_damaged_picture_is_told_and_the_others_are_shown(runs: Path) -> None:
    """Catches a broken image on the page, and a whole run that is lost for one file."""
    sheet = see(runs).sheets[100].path
    sheet.write_bytes(sheet.read_bytes()[:-40])
    run = see(runs)
    assert list(run.sheets) == [10, 1000]
    assert run.notes == ("step_00000100.png: this picture is damaged or cut short",)


def test_a_damaged_checkpoint_is_told(runs: Path) -> None:
    """Catches a button that leads into a traceback."""
    run = Run(runs / "mdt")
    for step, shards in ((1, 1), (2, 1), (3, 3), (4, 3)):
        run.write_checkpoint(step, lambda folder, shards=shards: write_checkpoint(folder, shards))
    transformer = {step: folder / "transformer" for step, folder in run.checkpoints.items()}
    weights = transformer[1] / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (transformer[2] / "config.json").unlink()
    (transformer[3] / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    (runs / "mdt" / "checkpoints" / "step_00000005").mkdir()
    assert see(runs).checkpoints == {
        1: "diffusion_pytorch_model.safetensors is damaged or cut short",
        2: "transformer/config.json is missing",
        3: "only 2 of its 3 weight files are there",
        4: "",
        5: "transformer/config.json is missing",
        1000: "",
    }
    (runs / "mdt" / "pipeline" / "model_index.json").unlink()
    assert see(runs).checkpoints[1000] == "the run has no pipeline folder to open it with"


def test_a_run_may_be_deleted_at_any_moment(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error when a file is gone between its listing and its reading."""
    found = find_runs([runs])
    keep = runs.parent / "kept"
    shutil.copytree(runs / "mdt", keep)
    again = partial(shutil.copytree, keep, runs / "mdt", copy_function=shutil.copy)  # with new times
    shutil.rmtree(runs / "mdt")
    for name in ("config", "samples", "checkpoints"):
        original = getattr(Run, name).fget
        again()

        def vanish(run: Run, original=original):
            value = original(run)
            shutil.rmtree(run.folder, ignore_errors=True)
            return value

        with monkeypatch.context() as patch:
            patch.setattr(Run, name, property(vanish))
            progress = look_at("mdt", found)
        assert not (runs / "mdt").exists()
        view([progress, look_at("dit", found)], 0, lambda sheet: "x")
    shutil.rmtree(runs)
    assert look_at("mdt", found).problem == "The run's folder disappeared while it was read."
    assert look_at("mdt", find_runs([runs])).problem == "There is no run of this name any more."
