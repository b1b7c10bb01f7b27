"""A request for some frames of a walk from one picture to another, and its recipe."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from app.common.recipes import class_of, find_class, settings_of, to_request
from app.engine.frames import Frame, frames_of
from app.engine.model_info import ModelInfo
from app.engine.request import Request
from app.engine.settings import SAMPLING, Choice, Number, Setting
from mdt_core.pipeline.walk import walk
from mdt_core.samplers import SAMPLERS

TOGETHER = 8  # frames that are drawn in one batch

WALKING: Mapping[str, Setting] = {
    **SAMPLING,
    "sampler": Choice(
        "sampler of a walk",
        "Sampler",
        "sampler",
        "The way from noise to picture; one that draws new noise at every step would flicker.",
        {name: name for name, row in SAMPLERS.items() if not row.stochastic},
    ),
    "num_frames": Number("number of frames", "Frames", "frames", "Pictures on the way: more make it smoother.", 2, 64),
    "seconds": Number(
        "length", "Seconds", "seconds", "How long the way takes. The film goes there and back.", 0.5, 20, 0.5
    ),
}


@dataclass(frozen=True)
class WalkRequest(Request):
    """Frames of a walk, at most TOGETHER; its two classes and two seeds are where it begins and where it ends."""

    num_frames: int = 16  # of the whole walk
    seconds: float = 2.0  # from one end to the other
    first_frame: int = 0

    kind: ClassVar[str] = "walk"
    settings: ClassVar[Mapping[str, Setting]] = WALKING

    @classmethod
    def first(cls, info: ModelInfo) -> Self:
        """The model's own settings, but for a sampler that would flicker."""
        own = dict(info.sampling_defaults)
        if own.get("sampler", "dpm++") not in WALKING["sampler"].options:
            own = {}
        labels = list(info.labels)
        return cls(info.name, (labels[0], labels[len(labels) // 2]), (0, 0), **own)

    @property
    def batch_size(self) -> int:
        return TOGETHER

    def parts(self) -> list[Self]:
        """The whole walk, a batch after the other."""
        return [replace(self, first_frame=first) for first in range(0, self.num_frames, TOGETHER)]

    def frames(self, pipe: Any, request_index: int = 0) -> Iterator[Frame]:
        request = self.for_labels(pipe.id2label)
        arguments = request.pipeline_arguments
        latents, labels = walk(pipe, self.num_frames, request.seeds, arguments["class_labels"])
        latents, labels = (each[self.first_frame : self.first_frame + TOGETHER] for each in (latents, labels))
        arguments |= {"class_labels": labels, "latents": latents, "seeds": [request.seeds[0]] * len(labels)}
        return frames_of(pipe.stream(**arguments), lambda step: {"x_0": step.preview}, request_index, self.evaluations)


def to_recipe(request: WalkRequest, info: ModelInfo) -> dict[str, Any]:
    """The recipe of a walk."""
    ends = [
        class_of(label, info) | {"seed": seed} for label, seed in zip(request.class_labels, request.seeds, strict=True)
    ]
    return {"kind": "walk", "from": ends[0], "to": ends[1], **settings_of(request, info)}


def from_recipe(recipe: Mapping[str, Any], info: ModelInfo) -> tuple[WalkRequest, list[str]]:
    """The walk of a recipe, and what could not be taken over. ValueError where it says nothing of its ends."""
    start = replace(WalkRequest.first(info), class_labels=(None,), seeds=(0,))  # of one end, as `to_request` reads
    try:
        ends = [dict(recipe[end]) for end in ("from", "to")]
        seeds = tuple(end["seed"] for end in ends)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError("The recipe in this picture is damaged: it does not say where the walk leads.") from error
    request, notes = to_request({**recipe, "seed": 0}, info, start)
    assert isinstance(request, WalkRequest)  # as the one that it starts from
    labels = tuple(find_class(end, info, notes) for end in ends)
    return replace(request, class_labels=labels, seeds=seeds), notes
