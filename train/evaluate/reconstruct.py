"""Images -> latents -> images: the autoencoder alone, a bound of what any model in its latents can reach."""

from dataclasses import replace

import numpy as np
import torch
from tqdm import trange

from mdt_core import autoencoder
from mdt_core.weights.hub import open_autoencoder
from train.evaluate.sources import ImageSet


@torch.inference_mode()
def reconstruct(model: str, images: ImageSet, device: torch.device, batch_size: int) -> ImageSet:
    """What the autoencoder makes of images.

    Args:
        model: a pipeline or an autoencoder alone, see `open_autoencoder`.
        images: what it is given.
        device: where it runs.
        batch_size: images at once.
    """
    vae = open_autoencoder(model).to(device)
    decoded = np.empty(images.images.shape, np.uint8)
    for start in trange(0, len(decoded), batch_size, desc="reconstruct", unit="batch"):
        batch = torch.tensor(images.images[start : start + batch_size], device=device)
        pixels = batch.permute(0, 3, 1, 2) / 127.5 - 1  # uint8 NHWC -> NCHW in [-1, 1]
        pixels = autoencoder.decode(vae, autoencoder.encode(vae, pixels))
        batch = ((pixels + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)  # and back
        decoded[start : start + batch_size] = batch.to(torch.uint8).cpu().numpy()
    return replace(images, images=decoded)
