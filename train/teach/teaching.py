"""A teaching from its plan to a model that can be opened: encode, rehearse, grow the class table, train, export.

Whatever is there already of a run folder is not made again: the same plan goes on where it was stopped.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image

from mdt_core import MDTPipeline, MDTTransformer
from mdt_core.acceleration.machine import choose_device, cpus_alone
from mdt_core.pipeline.open import open_pipeline
from mdt_core.runs import Run
from mdt_core.training.config import TrainingConfig, exponential_steps
from mdt_core.training.initialize import adopt_classes
from mdt_core.training.loop import explain_write_errors, train
from mdt_core.training.step_timing import seconds_per_step
from mdt_core.weights.hub import listed, one_line
from train.export import write_pipeline
from train.latents.dataset import Latents
from train.latents.encode import encode
from train.run_recipe import draw_sheet
from train.teach.pictures import ClassFolders
from train.teach.plan import TeachPlan
from train.teach.rehearsal import Lessons, draw_rehearsal
from train.teach.status import Report, status

REHEARSED = 500  # pictures of the old classes, at most
REHEARSAL_SHARE = 0.25  # of the time that a teaching may take, at most
TRAINING_SHARE = 0.75  # of what is left of it then; the rest asks the teacher, moves weights, draws samples and saves
SHEETS = 7  # pictures of samples/
SHEET_ROWS = 4
SHEET_COLUMNS = 6  # classes at most, the old ones among them no more than 2


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
        known = list(self.pipe.id2label.values())
        old = known if plan.keep_old else []
        self.id2label = dict(enumerate([*old, *(name for name in plan.pictures if name not in old)]))
        self.taught = [index for index, name in self.id2label.items() if name in plan.pictures]

    def run_to_end(self) -> bool:
        """Whether it came to its end; it does not where it was asked to stop."""
        data, config = self.encoded(), self.run.config
        seconds, precision = (config["seconds_per_step"], config["precision"]) if config else self.measured()
        rehearsed = self.rehearsed(seconds, precision)
        training = TrainingConfig(**config["training"]) if config else self.training_config(seconds)
        self.run.write_config(self.describe(training, seconds, precision))
        finished = self.trained(data, rehearsed, training, precision, seconds)
        if finished:
            self.exported()
        return finished

    def encoded(self) -> Latents:
        """The latents of the pictures."""
        folder = self.run.folder / "latents"
        try:
            return Latents(folder)
        except FileNotFoundError:
            images = ClassFolders(self.plan.pictures, self.id2label, self.pipe.image_size)
            self.report("encoding", 0, len(images))
            encode(images, self.pipe.vae, folder, mirror=self.plan.mirror)
        return Latents(folder)

    def measured(self) -> tuple[float, str]:
        """Seconds of a training step, and the precision that it is fastest in."""
        seconds, dtype = seconds_per_step(self.pipe.transformer, self.plan.batch_size)
        precision = "bf16" if dtype == torch.bfloat16 else "no"
        print(f"{seconds:.2f} s a step, in {str(dtype).removeprefix('torch.')}")
        return seconds, precision

    def rehearsed(self, seconds_per_step: float, precision: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The old classes as the model draws them; none where they are not kept, or all are taught."""
        labels = [self.pipe.class_index(name) for name in self.pipe.id2label.values() if name not in self.plan.pictures]
        if not self.plan.keep_old or not labels:
            return None
        self.pipe.optimize(dtype="bfloat16" if precision == "bf16" else "float32")
        planned = self.plan.minutes * 60 if self.plan.minutes else self.plan.steps * seconds_per_step

        def how_many(seconds: float) -> int:
            return int(min(max(len(labels), REHEARSAL_SHARE * planned / seconds), REHEARSED))

        def progress(done: int, count: int) -> None:
            self.report("rehearsing", done, count)
            print(
                f"\rrehearse the old classes: {done} of {count} pictures", end="\n" if done == count else "", flush=True
            )

        return draw_rehearsal(self.pipe, labels, self.run.folder / "rehearsal", how_many, progress)

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
            "classes": [self.id2label[label] for label in self.columns()],
            "samples_per_class": SHEET_ROWS,
            "latents": str(self.run.folder / "latents"),
            "training": asdict(training),
            "seconds_per_step": seconds_per_step,
            "precision": precision,
        }

    def trained(
        self,
        data: Latents,
        rehearsed: tuple[torch.Tensor, torch.Tensor] | None,
        training: TrainingConfig,
        precision: str,
        seconds_per_step: float,
    ) -> bool:
        """Train to the last step, or until a signal; whether the last step is done."""
        model = deepcopy(self.pipe.transformer).float().requires_grad_(True)
        lessons = Lessons(data, rehearsed, self.pipe.transformer, len(self.id2label)) if rehearsed else None
        print(adopt_classes(model, self.pipe.id2label, self.id2label))
        if not (self.run.folder / "pipeline").exists():
            write_pipeline(self.pipeline(model), self.run.folder / "pipeline")
        done = max(self.run.checkpoints, default=0)
        self.report("learning", done, training.steps, seconds_left=(training.steps - done) * seconds_per_step)
        if done < training.steps:
            train(
                model,
                lessons or data,
                training,
                self.run,
                sample_steps=exponential_steps(training.steps, first=max(1, training.steps >> (SHEETS - 1))),
                draw_samples=self.sample_sheet,
                target_of=lessons.target if lessons else None,
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
        """A model as a pipeline, with all else as the one it began with has it."""
        config = {key: self.pipe.config[key] for key in ("preview_weights", "guidance_channels", "sampling_defaults")}
        pipeline = MDTPipeline(model, deepcopy(self.pipe.vae), id2label=self.id2label, **config)
        pipeline.lora = self.pipe.lora  # an addition to layers, none of which knows how many classes there are
        return pipeline

    def columns(self) -> list[int]:
        """The classes of a sample sheet: those that are taught, then one or two of the old."""
        old = [label for label in self.id2label if label not in self.taught]
        some = [old[len(old) // 3], old[len(old) * 2 // 3]] if len(old) > 1 else old
        return [*self.taught[: SHEET_COLUMNS - len(some)], *some]

    def sample_sheet(self, model: MDTTransformer, step: int) -> Image.Image:
        """A column for each of these classes, `SHEET_ROWS` pictures each, of the same seeds at every step."""
        pipeline, settings = self.pipeline(model).to(model.device), self.pipe.sampling_presets["fast"]
        return draw_sheet(pipeline, self.columns(), SHEET_ROWS, **settings.arguments)
