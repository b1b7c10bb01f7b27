"""A teaching from its plan to a model that can be opened: encode, add classes and an adapter, train, export.

What is trained is a low-rank addition to the model's layers that acts on the taught classes alone (LoRA,
arXiv:2106.09685), and their rows of the class table. So the classes that the model knew stay as they are, and every
step is spent on the new pictures. Whatever is there already of a run folder is not made again: the same plan goes on
where it was stopped.
"""

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image

from mdt_core import MDTPipeline, MDTTransformer
from mdt_core.acceleration.machine import choose_device, cpus_alone
from mdt_core.diffusion import NUM_TIMESTEPS
from mdt_core.pipeline.open import open_pipeline
from mdt_core.pipeline.settings import sampling_presets
from mdt_core.runs import Run
from mdt_core.samplers import SAMPLERS
from mdt_core.training.config import TrainingConfig, exponential_steps
from mdt_core.training.initialize import add_adapter, adopt_classes
from mdt_core.training.loop import explain_write_errors, train
from mdt_core.training.step_timing import seconds_per_step
from mdt_core.weights.hub import listed, one_line
from train.export import write_pipeline
from train.latents.dataset import Latents
from train.latents.encode import encode
from train.run_recipe import draw_sheet
from train.teach.pictures import ClassFolders
from train.teach.plan import TeachPlan
from train.teach.status import Report, status

TRAINING_SHARE = 0.8  # of the time that is left when it begins: the rest moves weights, draws samples and saves
TAUGHT_SCALE = 3.0  # of guidance by a mask: what thirty pictures taught is less distinct than what thousands did
FAST_SHARE = 0.6  # of the steps of "balanced", where a student took few
SHEETS = 7  # pictures of samples/, at most
SHEET_ROWS = 4
SHEET_COLUMNS = 6  # classes at most


class Stopped(Exception):
    """A signal asked for the end, before the training or after it."""


def teach(plan: TeachPlan) -> None:
    """Do what is left of a plan; its run folder tells how far it is (status.py), and keeps why it failed.

    Raises:
        ValueError, OSError: the model or the pictures cannot be used, or the folder holds something else.
        TrainingError: the training cannot go on, or a file not be written.
    """
    plan.save()
    run = Run(Path(plan.out))
    report = Report(run)
    if status(run.folder).phase == "done":
        print(f"{run.folder / 'pipeline'} is there already: it has learnt what it was to learn")
        return
    try:
        with stopped_by_signals():
            teaching = Teaching(plan, run, report)
            with explain_write_errors(run):
                done = teaching.run_to_end()
        report("done" if done else "stopped")
    except Stopped:
        report("stopped")
        print("stopped; the same command goes on from here")
    except BaseException as error:
        report("failed", message=one_line(error))
        raise


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and Ctrl+C raise `Stopped`, but for the training, which first saves (`StopSignal`)."""

    def stop(number: int, frame: object) -> None:
        raise Stopped

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Teaching:
    """The stages of a plan, one after the other."""

    def __init__(self, plan: TeachPlan, run: Run, report: Report):
        self.plan, self.run, self.report = plan, run, report
        report("starting")
        self.pipe = open_pipeline(plan.model).to(choose_device())
        old = list(self.pipe.id2label.values()) if plan.keep_old else []
        self.id2label = dict(enumerate([*old, *(name for name in plan.pictures if name not in old)]))
        self.taught = [index for index, name in self.id2label.items() if name in plan.pictures]
        self.model, self.changes = taught_model(self.pipe, self.id2label, self.taught)

    def run_to_end(self) -> bool:
        """Whether it came to its end; it does not where it was asked to stop."""
        data, config = self.encoded(), self.run.config
        seconds, precision = (config["seconds_per_step"], config["precision"]) if config else self.measured()
        training = TrainingConfig(**config["training"]) if config else self.training_config(seconds)
        self.run.write_config(self.describe(training, seconds, precision))
        finished = self.trained(data, training, precision, seconds)
        if finished:
            self.exported()
        return finished

    def encoded(self) -> Latents:
        """The latents of the pictures; these may be gone, once the latents are there, but may not be others."""
        folder = self.run.folder / "latents"
        if not folder.exists() or all(Path(pictures).is_dir() for pictures in self.plan.pictures.values()):
            images = ClassFolders(self.plan.pictures, self.id2label, self.pipe.image_size)
            self.report("encoding", 0, len(images))
            encode(images, self.pipe.vae, folder, mirror=self.plan.mirror)
        data = Latents(folder)
        present = {label for shard in data.shards for label in shard["labels"].tolist()}
        if lost := [self.id2label[label] for label in self.taught if label not in present]:
            raise ValueError(f"of {' and '.join(lost)} no picture can be read: give others, and choose another --out")
        return data

    def measured(self) -> tuple[float, str]:
        """Seconds of a training step, and the precision that it is fastest in."""
        seconds, dtype = seconds_per_step(self.model, self.plan.batch_size)
        precision = "bf16" if dtype == torch.bfloat16 else "no"
        print(f"{seconds:.2f} s a step, in {str(dtype).removeprefix('torch.')}")
        return seconds, precision

    def training_config(self, seconds_per_step: float) -> TrainingConfig:
        """So many steps as are asked for, or fit into what is left of the time."""
        plan, steps = self.plan, self.plan.steps
        if steps is None:
            steps = max(1, int(TRAINING_SHARE * (plan.minutes * 60 - self.report.seconds) / seconds_per_step))
        return TrainingConfig(
            steps=steps,
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            warmup_steps=min(20, steps // 10),
            decay=1 / 3,
            ema_decay=0.99,
            label_dropout=0.0,  # the null class is an old one
            mask_ratio=None,
            noise_power=0.5,
            seed=plan.seed,
            log_every=max(1, min(10, steps // 50)),
            save_every=max(1, int(180 / seconds_per_step)),  # three minutes are lost at most
            keep_checkpoints=1,
            keep_sampled=False,
        )

    def describe(self, training: TrainingConfig, seconds_per_step: float, precision: str) -> dict:
        """The run's config.json."""
        return asdict(self.plan) | {
            "model": f"{type(self.pipe.transformer).__name__}, {listed(list(self.plan.pictures), most=3)}",
            "begun_with": self.plan.model,
            "classes": [self.id2label[label] for label in self.taught[:SHEET_COLUMNS]],
            "samples_per_class": SHEET_ROWS,
            "latents": str(self.run.folder / "latents"),
            "training": asdict(training),
            "seconds_per_step": seconds_per_step,
            "precision": precision,
        }

    def trained(self, data: Latents, training: TrainingConfig, precision: str, seconds_per_step: float) -> bool:
        """Train to the last step, or until a signal; whether the last step is done."""
        print(self.changes)
        if not (self.run.folder / "pipeline").exists():
            write_pipeline(self.pipeline(self.model), self.run.folder / "pipeline")
        done = max(self.run.checkpoints, default=0)
        self.report("learning", done, training.steps, seconds_left=(training.steps - done) * seconds_per_step)
        if done < training.steps:
            train(
                self.model,
                data,
                training,
                self.run,
                sample_steps=sheet_steps(training.steps),
                draw_samples=self.sample_sheet,
                accelerator=Accelerator(cpu=cpus_alone(), mixed_precision=precision),
            )
        return training.steps in self.run.checkpoints

    def exported(self) -> None:
        """Write what was learnt into pipeline/ and, of the last checkpoint, keep what opens it; both in float16."""
        self.report("finishing")
        step, folder = max(self.run.checkpoints.items())
        model = MDTTransformer.from_pretrained(folder / "transformer")
        pipeline = self.pipeline(model.half())
        pipeline.vae.half()
        write_pipeline(pipeline, self.run.folder / "pipeline")
        self.run.write_checkpoint(step, lambda partial: model.save_pretrained(partial / "transformer"))
        print(f"{self.run.folder / 'pipeline'}: a model of {len(self.id2label)} classes")

    def pipeline(self, model: MDTTransformer) -> MDTPipeline:
        """A model as a pipeline, with all else, but for the sampling settings, as the one it began with has it."""
        config = {key: self.pipe.config[key] for key in ("preview_weights", "guidance_channels")}
        config["sampling_defaults"] = taught_settings(self.pipe.config.sampling_defaults)
        pipeline = MDTPipeline(model, deepcopy(self.pipe.vae), id2label=self.id2label, **config)
        pipeline.lora = self.pipe.lora  # an addition to layers, none of which knows how many classes there are
        return pipeline

    def sample_sheet(self, model: MDTTransformer, step: int) -> Image.Image:
        """A column for each taught class, `SHEET_ROWS` pictures each, of the same seeds at every step."""
        pipeline = self.pipeline(model).to(model.device)
        return draw_sheet(pipeline, self.taught[:SHEET_COLUMNS], SHEET_ROWS)


def sheet_steps(steps: int) -> set[int]:
    """The steps at which samples are drawn: `SHEETS` at most, each after about twice as many as the one before."""
    return exponential_steps(steps, first=math.ceil(steps / 2 ** (SHEETS - 1)))


def taught_settings(entries: dict | None) -> dict:
    """What becomes of a model's `sampling_defaults`: what it was tuned to are the classes that it had.

    Steps begin in pure noise, as far apart as before: a later timestep has something of a picture's colours in it, and
    of taught fruits too many were dark. Guidance by a mask alone is stronger: parts of two drawings mix less often. The
    few steps of a student, which knows the old classes alone, become more, with guidance.
    """
    settings, last = sampling_presets(entries)["balanced"], NUM_TIMESTEPS - 1
    steps = round(settings.num_inference_steps * NUM_TIMESTEPS / (settings.first_timestep + 1))
    steps = min(steps, SAMPLERS[settings.sampler].max_steps)
    presets = {
        name: {"num_inference_steps": round(FAST_SHARE * steps)} if changes.get("distilled") else changes
        for name, changes in (entries or {}).get("presets", {}).items()
    }
    changed = {"first_timestep": last, "num_inference_steps": steps, "presets": presets}
    if settings.guidance_kind != "class":
        changed |= {"guidance_kind": "mask", "guidance_scale": TAUGHT_SCALE}
    return {**(entries or {}), **changed}


def measure_step(pipe: MDTPipeline, batch_size: int, threads: int) -> float:
    """The seconds of a step in which a model is taught one more class; see `seconds_per_step`."""
    model, _ = taught_model(pipe, {**pipe.id2label, pipe.num_classes: "new"}, [pipe.num_classes])
    return seconds_per_step(model, batch_size, threads)[0]


def taught_model(pipe: MDTPipeline, id2label: dict[int, str], taught: Sequence[int]) -> tuple[MDTTransformer, str]:
    """The model that is trained, in float32, and in words what its classes are.

    Args:
        pipe: the model as it is; it stays so.
        id2label: the classes that the taught one is to have.
        taught: those of them that have an adapter of their own, and are trained with it.
    """
    model = deepcopy(pipe.transformer).float()
    changes = adopt_classes(model, pipe.id2label, id2label)
    if list(taught) not in model.config.adapters:
        model = add_adapter(model, taught)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith("y_embedder"))
    return model, changes
