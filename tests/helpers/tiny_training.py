"""A model and a data set so small that a step takes milliseconds; as a program, a run of them in one of many processes.

python -m tests.helpers.tiny_training RUN_FOLDER STEPS      # [sharded] [bfloat16], in a launcher's environment
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from PIL import Image
from torch import Tensor

from mdt_core import MDTTransformer, MDTv2
from mdt_core.layers import Block
from mdt_core.runs import Run
from mdt_core.training.config import TrainingConfig
from mdt_core.training.loop import train

ADAPTED = {"adapters": [[0]], "adapter_rank": 2}  # a class with a low-rank addition of its own
CONFIG = TrainingConfig(steps=6, batch_size=4, learning_rate=1e-3, ema_decay=0.9, log_every=2, save_every=3)


class EightImages:
    """Eight fixed latents, one class each."""

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.mean, self.std = torch.randn(8, 4, 8, 8, generator=g), torch.full((8, 4, 8, 8), 0.01)

    def __len__(self) -> int:
        return 8

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        return self.mean[indices], self.std[indices], torch.tensor(indices)


def small_model(**changes) -> MDTv2:
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "hidden_size": 32, "depth": 4, "num_heads": 2, "decoder_layers": 2, "num_classes": 8}
    return MDTv2(**(sizes | changes))


def weights(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights."""
    return MDTTransformer.from_pretrained(checkpoint / "transformer").state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def main(folder: Path, steps: int, *mode: str) -> None:
    """Train as one of many processes, and look at the types that a block works in."""
    lower = "bfloat16" in mode
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if lower else "no")
    if "sharded" in mode:  # accelerate reads an FSDP configuration on GPUs alone, its code works anywhere
        policy = {"auto_wrap_policy": "transformer_based_wrap", "transformer_cls_names_to_wrap": ["Mlp", "Sequential"]}
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, cpu_ram_efficient_loading=False, **policy
        )
        if lower:
            accelerator.state.fsdp_plugin.set_mixed_precision("bf16")  # as accelerate's own state does
        accelerator.state.distributed_type = DistributedType.FSDP
    config = replace(CONFIG, steps=steps, log_every=1)
    model, streams, products = small_model(**ADAPTED), set(), set()
    for module in model.modules():
        if isinstance(module, Block):
            module.register_forward_hook(lambda *of: streams.add(of[-1].dtype))
            module.mlp.register_forward_hook(lambda *of: products.add(of[-1].dtype))
    sampled: list[tuple] = []

    def draw_samples(averaged: MDTTransformer, step: int) -> Image.Image:
        out = averaged(torch.zeros(1, 4, 8, 8), torch.tensor([1]), torch.tensor([0]))
        sampled.append((step, tuple(out.shape)))
        return Image.new("RGB", (8, 8))

    sampling = {"sample_steps": {steps}, "draw_samples": draw_samples}
    train(model, EightImages(), config, Run(folder), accelerator=accelerator, **sampling)
    assert sampled == ([(steps, (1, 8, 8, 8))] if accelerator.is_main_process else []), sampled
    assert streams == {torch.float32}, streams  # whatever the products are in
    assert products == {torch.bfloat16 if lower else torch.float32}, products
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
