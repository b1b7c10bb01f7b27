"""The judge of published figures: InceptionV3 of 2015, as the ADM evaluator uses it.

FID, sFID and the Inception Score are defined by this one network with its own resizing (TensorFlow 1's bilinear, which
samples where others average) and its own padding. torch-fidelity carries a port that agrees with the original to the
last digits; what ADM reads beyond FID is taken from it here:

    pooled          pool_3, 2,048 numbers                                       FID, KID, precision and recall
    spatial         the first 7 channels of mixed_6/conv, 17 x 17 x 7 = 2,023   sFID
    probabilities   softmax over 1,008 logits without their bias                Inception Score

The library is optional (requirements-extra.txt) and downloads the weights, 91 MB, when it is first used.
"""

from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from train.evaluate.features import Features

CHANNELS = 7  # of mixed_6/conv


class Inception:
    """InceptionV3 at 299 px.

    Args:
        device: where the network runs.

    Raises:
        ImportError: the library is not installed.
        OSError: its weights are neither in the cache nor to be had.
    """

    name = "Inception"
    words: ClassVar[dict[str, str]] = {
        word: word.replace("FD", "FID") for word in ("KID", "FD", "sFD", "IS", "precision", "recall")
    }

    def __init__(self, device: str | torch.device = "cpu") -> None:
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as library
        except ImportError as error:
            raise ImportError("the Inception network is missing: pip install -r requirements-extra.txt") from error

        # The library would unpickle whatever it got; this loads tensors alone and holds the file against its hash.
        library.load_state_dict_from_url = partial(
            torch.hub.load_state_dict_from_url, weights_only=True, check_hash=True
        )
        try:
            network = library.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
        except OSError as error:
            place = f"{torch.hub.get_dir()}/checkpoints/{library.URL_INCEPTION_V3.rpartition('/')[2]}"
            raise OSError(f"Inception's weights cannot be downloaded ({error}): put them at {place}") from error
        self.network = network.to(device).eval()
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._see_middle)
        self.device = device

    def _see_middle(self, block: torch.nn.Module, inputs: tuple, output: Tensor) -> None:
        self._middle = output[:, :CHANNELS].permute(0, 2, 3, 1).flatten(1)  # places, then channels, as ADM's mu_s

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Features:
        """uint8 (N, H, W, 3) -> Features with 2,048 pooled and 2,023 spatial numbers and 1,008 probabilities."""
        pooled, logits = self.network(torch.tensor(images, device=self.device).permute(0, 3, 1, 2))
        return Features(*(x.float().cpu().numpy() for x in (pooled, self._middle, logits.softmax(dim=1))))
