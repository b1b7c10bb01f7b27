"""A whole pipeline so small that a step takes milliseconds, and a run folder with its checkpoints."""

from pathlib import Path

import torch

from mdt_core.lora import LoRA
from mdt_core.pipeline.pipeline import MDTPipeline
from mdt_core.runs import Run
from mdt_core.training.initialize import add_adapter
from mdt_core.transformer import MDTTransformer, MDTv2
from train.autoencoder.model import small_autoencoder

NAMES = {0: "cat", 1: "dog", 2: "sea lion"}


def tiny_pipeline(id2label: dict[int, str] = NAMES, std: float = 0.1, seed: int = 0) -> MDTPipeline:
    """An untrained MDTv2 of random weights (a fresh one puts out zeros) that draws 32 px pictures."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "depth": 4, "num_heads": 2, "decoder_layers": 2, "num_classes": len(id2label)}
    model = MDTv2(sample_size=8, in_channels=8, patch_size=2, **sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    vae = small_autoencoder(16, 16, latent_channels=8, block=4)
    return MDTPipeline(model, vae, id2label=id2label, guidance_channels=None)


def with_adapter(model: MDTTransformer, classes: list[int]) -> MDTTransformer:
    """The model with an adapter that does something."""
    model = add_adapter(model, classes)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_lora(model: torch.nn.Module, seed: int = 0, rank: int = 2) -> LoRA:
    """An addition to every linear layer, in numbers that float16 holds."""
    torch.manual_seed(seed)
    lora = LoRA(model, [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)], rank)
    for up in lora.up:
        torch.nn.init.normal_(up, std=0.1)
    return lora.half().float()


def write_run(folder: Path, steps: tuple[int, ...] = (1, 2), id2label: dict[int, str] = NAMES) -> Run:
    """A run as training leaves it: its pipeline from the start, and at each of `steps` other weights (of seed step)."""
    run = Run(folder)
    run.write_config({"model": "tiny", "classes": list(id2label.values())})
    pipe = tiny_pipeline(id2label)
    pipe.fit_preview()
    pipe.save_pretrained(folder / "pipeline")
    for step in steps:
        model = tiny_pipeline(id2label, seed=step).transformer
        run.write_checkpoint(step, lambda partial, model=model: model.save_pretrained(partial / "transformer"))
    return run
