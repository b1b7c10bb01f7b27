"""What a checkpoint of a run holds, and how a run resumes from its last one."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mdt_core.runs import Run
from mdt_core.training.config import TrainingError
from mdt_core.training.ema import EMA
from mdt_core.training.optimizers import AdamW, Adan, load_optimizer_tensors, optimizer_tensors
from mdt_core.training.sharding import all_gather, all_gather_model, all_gather_state, load_weights, shard_state
from mdt_core.transformer import MDTTransformer
from mdt_core.weights.hub import listed

SUMS = "SHA256SUMS"  # the checksums beside a checkpoint's files


@dataclass
class TrainingState:
    """What a checkpoint holds: the averaged model, as a diffusers folder, and what is needed to resume."""

    ema: MDTTransformer
    raw: dict[str, Tensor]  # the weights that are trained
    optimizer: dict[str, Tensor]

    @classmethod
    def gather(cls, model: MDTTransformer, ema: EMA, optimizer: torch.optim.Optimizer) -> "TrainingState":
        """The present state, whole in the main process; where it is sharded, all processes must call together."""
        raw, moments = all_gather(model.state_dict()), all_gather_state(optimizer, optimizer_tensors(optimizer))
        return cls(all_gather_model(ema.model), raw, moments)

    def save(self, folder: Path) -> None:
        """Write transformer/, raw.safetensors and optimizer.safetensors into `folder`."""
        self.ema.save_pretrained(folder / "transformer")
        for name, tensors in (("raw", self.raw), ("optimizer", self.optimizer)):
            save_tensors(tensors, folder / f"{name}.safetensors")


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors, however they lie in memory, by their names."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def write_checkpoint(run: Run, step: int, save: Callable[[Path], None]) -> None:
    """Make a checkpoint that `save(folder)` fills, with the checksums of its files.

    Raises:
        TrainingError: a number in it is not finite; nothing is written then.
    """

    def fill(folder: Path) -> None:
        save(folder)
        try:
            check_finite(folder)
        except ValueError as error:
            raise TrainingError(
                f"step {step} is not saved, {error}: lower the learning rate, "
                f"then start again from the last checkpoint in {run.folder}"
            ) from error
        (folder / SUMS).write_text("".join(f"{line}\n" for line in checksums(folder)), "utf-8")

    run.write_checkpoint(step, fill)


def load_last(run: Run, load: Callable[[Path], None]) -> int:
    """Let `load(folder)` read the run's last whole checkpoint, if it has any; the number of steps it has done.

    Later ones that are damaged are set aside, and told of.

    Raises:
        TrainingError: every checkpoint is damaged, or it is of another model or optimizer.
    """
    damaged: dict[Path, str] = {}
    for step, folder in reversed(resumable(run).items()):
        try:
            check_whole(folder)
        except (ValueError, FileNotFoundError) as error:  # not found: another process has just set it aside
            damaged[folder] = str(error)
            continue
        try:
            load(folder)
        except Exception as error:  # of other sizes: the readers have no common base class
            raise TrainingError(
                f"{folder} cannot be resumed ({error}): delete that folder to go on from the one before, "
                "or choose another --output-dir"
            ) from error
        for each, reason in damaged.items():
            aside = each.with_name(f"damaged_{each.name}")
            with suppress(FileNotFoundError):  # of many processes, another was first
                each.rename(aside)
                print(f"{each} is damaged, {reason}: it is {aside.name} now, and the run goes on from step {step}")
        return step
    for folder, reason in damaged.items():
        raise TrainingError(f"{folder} cannot be resumed, {reason}; nor can one before it: choose another --output-dir")
    return 0


def resumable(run: Run) -> dict[int, Path]:
    """The checkpoints that a run can go on from: step -> folder. The others hold averaged weights alone."""
    return {step: folder for step, folder in run.checkpoints.items() if (folder / "optimizer.safetensors").exists()}


def checksums(folder: Path) -> list[str]:
    """A line for every file in a checkpoint, as `sha256sum` writes and checks it."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS):
        with path.open("rb") as file:
            lines.append(f"{file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}")
    return lines


def check_whole(folder: Path) -> None:
    """ValueError where a checkpoint's file is not as it was written, or holds numbers that are not finite."""
    sums = folder / SUMS
    if sums.exists():  # which older runs have not
        changed = sorted(set(sums.read_text("utf-8").splitlines()) - set(checksums(folder)))
        if changed:
            raise ValueError(f"not as it was written: {listed([line.partition('  ')[2] for line in changed])}")
    check_finite(folder)


def check_finite(folder: Path) -> None:
    """ValueError where a checkpoint's file cannot be read, or holds numbers that are not finite."""
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                bad = [name for name in file.keys() if not file.get_tensor(name).isfinite().all()]  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path.name} cannot be read ({error})") from error
        if bad:
            raise ValueError(f"{path.relative_to(folder)} is not finite in {listed(bad, most=3)}")


def resume(run: Run, model: MDTTransformer, ema: EMA, optimizer: AdamW | Adan) -> int:
    """Load the run's last whole checkpoint, in place; the number of steps it has done. Raises as `load_last`."""

    def load(folder: Path) -> None:
        load_weights(ema.model, MDTTransformer.from_pretrained(folder / "transformer").state_dict())
        load_weights(model, load_file(folder / "raw.safetensors"))
        load_optimizer_tensors(optimizer, shard_state(optimizer, load_file(folder / "optimizer.safetensors")))

    return load_last(run, load)
