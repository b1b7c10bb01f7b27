"""A run's milestones -> rows of evaluation.jsonl: KID of the same seeds and classes, loss on held-out latents."""

import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from mdt_core import MDTPipeline, MDTTransformer
from mdt_core.runs import Run
from mdt_core.weights.hub import open_autoencoder
from train.convergence.contenders import in_full
from train.convergence.validation import ValidationDraws, validation_losses
from train.evaluate import features, metrics, samples
from train.export import assemble
from train.latents.dataset import Latents


@dataclass(frozen=True)
class EvaluationSettings:
    """How checkpoints are evaluated; a row of evaluation.jsonl holds it beside its figures."""

    num_images: int
    first_seed: int
    guidance_scale: float
    guidance_power: float
    num_inference_steps: int
    reference: str
    validation_images: int

    def sampling(self, weights: str) -> samples.Sampling:
        """The part that decides the samples of a checkpoint of these `weights`, by their fingerprint."""
        parts = asdict(self)
        del parts["reference"], parts["validation_images"]
        return samples.Sampling(weights=weights, sampler="dpm++", **parts)


def milestones(run: Run, wanted: list[int] | None = None) -> dict[int, Path]:
    """Step -> averaged weights, of the steps that are also pictured in samples/, or of those that are wanted.

    Raises:
        ValueError: a wanted step, or any, is missing.
    """
    kept = {step: folder / "transformer" for step, folder in run.checkpoints.items()}
    steps = wanted or [step for step in kept if step in run.samples]
    if not steps or not kept.keys() >= set(steps):
        raise ValueError(f"{run.folder} has checkpoints of steps {list(kept)}, not of {wanted or 'any milestone'}")
    return {step: kept[step] for step in steps}


def evaluate_run(
    run: Run,
    settings: EvaluationSettings,
    real: np.ndarray,
    judge: features.Judge,
    state: PartialState,
    device: str | torch.device,
    batch_size: int,
    wanted: list[int] | None = None,
) -> None:
    """Write a row for every milestone of a run that has none of these settings yet.

    Args:
        run: the run.
        settings: how its checkpoints are evaluated.
        real: pooled features (N, D) of the reference, by the judge.
        judge: looks at the samples.
        state: the processes, which share the work.
        device: where this one computes.
        batch_size: changes the speed, not the figures.
        wanted: these steps, in place of all milestones.
    """
    if "latents" not in run.config:
        raise ValueError(f"{run.folder} holds no run of a diffusion model")
    done = {row["step"] for row in run.evaluations if asdict(settings).items() <= in_full(row).items()}
    todo = {step: path for step, path in milestones(run, wanted).items() if step not in done}
    state.wait_for_everyone()  # every process has read before the first row is written
    data, vae = Latents(run.config["latents"], "validation"), open_autoencoder(run.config["vae"]).to(device)
    id2label = {} if run.config.get("unconditional") else data.id2label
    draws = ValidationDraws.of(data, settings.validation_images, labelled=bool(id2label))
    batches = samples.share(range(len(draws)), batch_size, state.process_index, state.num_processes)
    look = partial(sampled_features, settings=settings, judge=judge, state=state, batch_size=batch_size)

    for step, path in todo.items():
        transformer = MDTTransformer.from_pretrained(path).to(device).eval()
        pooled = look(assemble(transformer, vae, id2label), run.folder / f".{path.parent.name}.samples")
        losses = gather_object([validation_losses(transformer, draws, batches, device)])
        if state.is_main_process:
            kid = metrics.kernel_distance(real, pooled)
            plain, weighted = torch.cat(losses, 1).mean(1).tolist()
            row = {"step": step, "kid_efflite0": kid.value, "kid_error": kid.error}
            row |= {"validation_loss": plain, "validation_loss_min_snr": weighted}
            run.write_evaluation(row | asdict(settings))
            print(f"{run.name}, step {step}: KID {kid.value:.3f} ± {kid.error:.3f}, loss {plain:.4f}", flush=True)
        state.wait_for_everyone()


def sampled_features(
    pipe: MDTPipeline,
    folder: Path,
    settings: EvaluationSettings,
    judge: features.Judge,
    state: PartialState,
    batch_size: int,
) -> np.ndarray:
    """Pooled features (N, D) of a checkpoint's samples, which are drawn to `folder` and then deleted."""
    pipe.set_progress_bar_config(disable=True)
    sampling = settings.sampling(samples.weights_fingerprint(pipe))
    samples.draw_together(pipe, sampling, folder, batch_size, state)
    images = samples.pack(folder, sampling, pipe.num_classes, ()).images
    share = np.array_split(images, state.num_processes)[state.process_index]
    pooled = features.extract(judge, share, name=folder.stem.strip(".")).pooled
    gathered = np.concatenate(gather_object([pooled]))  # no process reads the folder any more
    if state.is_main_process:
        shutil.rmtree(folder)
    return gathered
