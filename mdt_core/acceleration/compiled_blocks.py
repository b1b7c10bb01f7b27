"""Compiled blocks: one function for all of them, whatever weights they hold."""

from functools import partial

import torch
from diffusers import ModelMixin

COMPILED_KINDS = 32  # of a block, before torch gives up and runs what is left uncompiled


def compile_blocks(model: ModelMixin) -> None:
    """Compile the one function that all blocks of a model are, in place; no weight changes its name.

    It is compiled anew for each kind of call: with and without shortcut, queries, gradient, and a bias of each image's
    own; for one image, two, and any number.
    """
    torch._dynamo.config.recompile_limit = max(COMPILED_KINDS, torch._dynamo.config.recompile_limit)
    blocks = [module for module in model.modules() if type(module).__name__ in model._repeated_blocks]
    forward = torch.compile(type(blocks[0]).forward)
    for block in blocks:
        block.forward = partial(forward, block)
