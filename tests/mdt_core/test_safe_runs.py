"""What a run is safe from: damaged checkpoints, numbers that are not finite, a second process, a disk that is full."""

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mdt_core.runs import Run, write_whole
from mdt_core.training.config import TrainingError
from mdt_core.training.loop import explain_write_errors, train
from tests.helpers.tiny_training import CONFIG, EightImages, small_model


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the lowest bit of a mantissa's byte: the file reads as before
    path.write_bytes(content)


def put_nan(path: Path) -> None:
    tensors = load_file(path)
    next(tensor for tensor in tensors.values() if tensor.is_floating_point()).fill_(torch.nan)
    save_file(tensors, path)
    (path.parent / "SHA256SUMS").unlink(missing_ok=True)  # as in a run that was begun before there were any


@pytest.mark.parametrize("harm", [flip_a_bit, put_nan])
@pytest.mark.parametrize("name", ["raw.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_passed_over_and_outlives_no_good_one(tmp_path, capsys, harm, name):
    """Catches weights that are wrong without a word, and the last good checkpoint pruned in favour of a bad one."""
    whole, run, config = Run(tmp_path / "whole"), Run(tmp_path / "run"), replace(CONFIG, save_every=1)
    train(small_model(), EightImages(), config, whole)
    train(small_model(), EightImages(), replace(config, steps=4), run)
    harm(run.checkpoints[4] / name)
    capsys.readouterr()
    train(small_model(), EightImages(), replace(config, keep_checkpoints=1), run)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert f"{run.folder}/checkpoints/step_00000004 is damaged" in line and name in line and "from step 3" in line
    assert list(run.checkpoints) == [6]
    raw = [(each.checkpoints[6] / "raw.safetensors").read_bytes() for each in (whole, run)]
    assert raw[0] == raw[1]


def test_checkpoints_that_are_all_damaged_start_nothing_anew(tmp_path):
    run = Run(tmp_path)
    train(small_model(), EightImages(), replace(CONFIG, steps=3), run)
    flip_a_bit(run.checkpoints[3] / "raw.safetensors")
    with pytest.raises(TrainingError, match=r"step_00000003 cannot be resumed, not as it was written: raw.safetensors"):
        train(small_model(), EightImages(), CONFIG, run)
    assert list(run.checkpoints) == [3]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """Catches a checkpoint of NaN, and the good one that is pruned for it."""
    run, data, model = Run(tmp_path), EightImages(), small_model()
    train(small_model(), EightImages(), replace(CONFIG, steps=3), run)

    def batch(indices: list[int]) -> tuple:
        model.x_embedder.proj.bias.data.fill_(torch.nan)
        return EightImages().batch(indices)

    data.batch = batch
    with pytest.raises(TrainingError, match=r"step 6 is not saved, raw.safetensors is not finite in x_embedder"):
        train(model, data, replace(CONFIG, keep_checkpoints=1), run)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]


@pytest.mark.parametrize(
    "error, cure",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "make room"),
        (PermissionError(errno.EACCES, "Permission denied"), "see to that"),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "see to that"),
    ],
)
def test_room_is_asked_for_where_the_disk_is_full(tmp_path, error, cure):
    """Catches files deleted in vain where a folder may not be written."""
    with pytest.raises(TrainingError, match=cure), explain_write_errors(Run(tmp_path)):
        raise error


def test_a_folder_is_written_whole_where_a_kill_left_the_one_before(tmp_path):
    """Catches a fresh folder thrown away because of what a process left that was killed while it tidied up."""
    left = tmp_path / ".model.old"
    for folder in (tmp_path / "model", left):
        folder.mkdir()
        (folder / "old").touch()
    write_whole(tmp_path / "model", lambda partial: (partial.mkdir(), (partial / "new").touch()))
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"] and not left.exists()


def test_a_run_folder_belongs_to_one_process(tmp_path):
    """Catches two processes that write the same checkpoints, a lock that a kill leaves, an empty folder."""
    run = Run(tmp_path / "run")
    hold = f"from pathlib import Path; from mdt_core.runs import Run\nwith Run(Path({str(run.folder)!r})).locked(): "
    other = subprocess.Popen([sys.executable, "-c", f"{hold}print('held', flush=True); input()"], stdin=-1, stdout=-1)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match=f"another process trains into {run.folder}"), run.locked():
        pass
    other.kill()
    other.communicate()
    with run.locked():
        assert run.folder.is_dir()
    new = Run(tmp_path / "new")
    with pytest.raises(ZeroDivisionError), new.locked():
        1 / 0  # noqa: B018
    assert not new.folder.exists()
