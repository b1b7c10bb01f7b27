"""What a checkpoint of a run holds; how a run resumes from its last one, or begins with another model's weights."""

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
from mdt_core.training.optimizers import load_optimizer_tensors, optimizer_tensors
from mdt_core.training.sharding import all_gather, all_gather_model, all_gather_state, load_weights, shard_state
from mdt_core.transformer import MDT, MDTTransformer
from mdt_core.weights.growth import grow
from mdt_core.weights.hub import listed
from mdt_core.weights.official import detect, load_official, read_state_dict

SUMS = "SHA256SUMS"  # the checksums beside a checkpoint's files
CLASS_TABLE = "y_embedder.embedding_table.weight"


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
            save_file({key: t.contiguous() for key, t in tensors.items()}, folder / f"{name}.safetensors")


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


def resume(run: Run, model: MDTTransformer, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
    """Load the run's last whole checkpoint, in place; the number of steps it has done. Raises as `load_last`."""

    def load(folder: Path) -> None:
        load_weights(ema.model, MDTTransformer.from_pretrained(folder / "transformer").state_dict())
        load_weights(model, load_file(folder / "raw.safetensors"))
        load_optimizer_tensors(optimizer, shard_state(optimizer, load_file(folder / "optimizer.safetensors")))

    return load_last(run, load)


def initialize_from(model: MDTTransformer, source: str | Path) -> str:
    """Begin with the weights of another model: of the same sizes, to train it on other classes, or of smaller ones.

    Everything must fit but the class table: where the number of classes differs, it keeps `model`'s fresh rows
    and takes over the null class. A narrower or shallower model of the same classes is grown
    (`mdt_core.weights.growth`).

    Args:
        model: freshly initialised.
        source: a run's checkpoint or a pipeline (a folder with a transformer/), a transformer's own folder, or a
            published file.

    Returns:
        in words, what was done.

    Raises:
        ValueError: there is no model, or it is of another class or does not fit; what differs is named.
    """
    other = _open(Path(source), model.config.decoder_layers)
    theirs, ours = ({"class": type(m).__name__, **m.config} for m in (other, model))
    may_differ = {"num_classes", "without"}  # a part left out shows in the keys of the state
    differing = [key for key in ours if key[0] != "_" and key not in may_differ and ours[key] != theirs.get(key)]
    if differing:
        try:
            grow(other, model)
        except ValueError as error:
            sizes = ", ".join(f"{key} {theirs.get(key)} there and {ours[key]} here" for key in differing)
            raise ValueError(f"{source} is another model: {sizes}; {error}") from error
        millions = sum(p.numel() for p in other.parameters()) / 1e6
        return f"grown from the {millions:.1f}M parameters of {source}"
    state = other.state_dict()
    if theirs["num_classes"] != ours["num_classes"]:
        table = model.state_dict()[CLASS_TABLE].clone()
        table[-1] = state[CLASS_TABLE][-1]  # the null class
        state[CLASS_TABLE] = table
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{source} is another model: {' '.join(str(error).split())}") from error
    return f"beginning with the weights of {source}"


def _open(source: Path, v1_decoder_layers: int) -> MDTTransformer:
    """The model of a published file, a pipeline, a checkpoint or a transformer's folder."""
    if source.is_file():
        is_v1 = detect(read_state_dict(source))[0] is MDT  # its file alone does not say how deep its decoder is
        return load_official(source, decoder_layers=v1_decoder_layers if is_v1 else None)
    folder = source / "transformer" if (source / "transformer").is_dir() else source
    if not (folder / "config.json").is_file():
        raise ValueError(f"{source} holds no model: a checkpoint, a pipeline folder or a published file is needed")
    return MDTTransformer.from_pretrained(folder)
