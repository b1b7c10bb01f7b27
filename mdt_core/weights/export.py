"""A model folder that diffusers opens without this package, and its way to the hub.

    DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)

Beside weights and settings it brings its code: `pipeline.py` and `transformer/transformer.py`, one file each. diffusers
fetches no more than these from the hub, and keeps the code of all local models side by side under the names of their
files: a module that several exports share would be that of whichever was opened first.
"""

import inspect
import json
from importlib import import_module
from pathlib import Path

import huggingface_hub
import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import nn

from mdt_core.weights.hub import listed, one_line
from mdt_core.weights.standalone import Name, Standalone

HEADER = '''"""{about}

DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True) runs this file. MDT Studio's `export` wrote it from
the sources of that library: to change it, change those and export again.
"""

# Copyright the authors of MDT Studio.
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
# "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the
# specific language governing permissions and limitations under the License.'''

CARD = """---
library_name: diffusers
pipeline_tag: unconditional-image-generation
---

# {name}

{kind}, a class-conditional diffusion transformer ([MDT](https://arxiv.org/abs/2303.14389)): {parameters:,} parameters,
pictures of {size} x {size} pixels, {classes}.

```
pip install diffusers accelerate einops
```

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
image = pipe(class_labels=[{label!r}], seeds=[0]).images[0]
image = pipe.inpaint(image, mask, class_labels=[{label!r}], method="{method}").images[0]  # white where to repaint
```

`trust_remote_code` runs `pipeline.py` and `transformer/transformer.py`, which lie beside the weights.

**Sampling.** {settings}, unless a call says
otherwise. Every picture has a seed of its own: seed and settings give the same one, whatever it is drawn with.

**Licence.** The code is under the Apache License 2.0. The weights are under the licence that those who trained them
gave them: write it here.
"""


def export_pipeline(pipe: DiffusionPipeline, folder: Path, name: str, card: str | None = None) -> None:
    """Write a pipeline of ours so that diffusers opens it by itself.

    Args:
        pipe: an `MDTPipeline`.
        folder: where to; empty or not there yet.
        name: what a card calls the model and opens: its id on the hub, or the folder.
        card: the model's README.md; one is written where it has none.
    """
    model = type(pipe.transformer)
    save_small(pipe, folder)
    index = folder / pipe.config_name
    config = json.loads(index.read_text("utf-8"))
    config |= {"_class_name": ["pipeline", type(pipe).__name__], "transformer": ["transformer", model.__name__]}
    index.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    network, pipeline = standalone_code(model, type(pipe))
    (folder / "transformer" / "transformer.py").write_text(network, "utf-8")
    (folder / "pipeline.py").write_text(pipeline, "utf-8")
    (folder / "README.md").write_text(card or model_card(pipe, name), "utf-8")


def standalone_code(model: type, pipeline: type) -> tuple[str, ...]:
    """The code of a transformer's class and of the pipeline's, a file each."""
    network = Standalone(home(model), model.__name__)
    apart: dict[Name, Name] = {}
    for module, names in network.chosen.items():
        for name in names:
            thing = getattr(import_module(module), name)
            if isinstance(thing, type) and issubclass(thing, nn.Module):
                of_diffusers = issubclass(thing, ModelMixin)
                apart[module, name] = ("diffusers", "ModelMixin") if of_diffusers else ("torch", "nn.Module")
    return tuple(
        part.code(HEADER.format(about=inspect.getdoc(cls).splitlines()[0]))
        for cls, part in [(model, network), (pipeline, Standalone(home(pipeline), pipeline.__name__, apart))]
    )


def home(cls: type) -> str:
    """The module that defines a class. The class itself names the package, its functions their module."""
    return inspect.unwrap(cls.__init__).__module__


def save_small(pipe: DiffusionPipeline, folder: Path) -> None:
    """Save each network in float16 where no weight changes by it, as one that was published so; else as it is."""
    networks = [part for part in (pipe.transformer, pipe.vae) if part.dtype == torch.float32 and fits_half(part)]
    for network in networks:
        network.half()
    try:
        pipe.save_pretrained(folder)
    finally:
        for network in networks:
            network.float()


def fits_half(network: nn.Module) -> bool:
    """Whether float16 holds every weight exactly."""
    weights = (weight for weight in network.state_dict().values() if weight.is_floating_point())
    return all(torch.equal(weight.half().to(weight.dtype), weight) for weight in weights)


def model_card(pipe: DiffusionPipeline, name: str) -> str:
    """A README.md for the hub: what the model is, how to open it, its settings and its licence."""
    return CARD.format(
        name=name,
        kind=type(pipe.transformer).__name__,
        parameters=sum(weight.numel() for weight in pipe.transformer.parameters()),
        size=pipe.image_size,
        classes=f"{pipe.num_classes} classes: {listed(list(pipe.id2label.values()), most=16)}",
        label=pipe.id2label.get(0),
        method="mdt" if "side_interpolator" in pipe.transformer.parts else "repaint",
        settings=pipe.sampling_defaults.in_words,
    )


def check_push(repository: str) -> None:
    """What can be known before the work: the id can be one, and there is a token. Else ValueError."""
    huggingface_hub.utils.validate_repo_id(repository)
    if huggingface_hub.get_token() is None:
        raise ValueError(f"nobody is logged in who could write to {repository}: run `hf auth login` or set HF_TOKEN")


def push(folder: Path, repository: str) -> str:
    """Upload an exported folder to the hub, into a repository that is made where there is none; its address.

    Raises:
        ValueError: the hub cannot be reached, or does not let this token write there.
    """
    try:
        address = huggingface_hub.create_repo(repository, exist_ok=True)
        huggingface_hub.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message="Export")
    except Exception as error:  # unreachable, offline, not allowed: the hub's transports have no common base class
        raise ValueError(f"{folder} is written, but {repository} did not take it ({one_line(error)})") from error
    return str(address)
