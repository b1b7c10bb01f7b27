"""On a CPU an image's numbers must not depend on its batch; a batch is evaluated at once where they do not.

A matrix product adds up in an order that its kernel chooses by the number of rows: by one image's tokens or by a
batch's. On one processor both orders round alike, on another they do not, and neither oneDNN nor MKL promises anything.
So each shape of batch is tried once, both ways.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def batch_invariant(model: Callable[..., Tensor], invariant: dict[tuple, bool]) -> Callable[..., Tensor]:
    """A model that gives an image the same numbers alone and in any batch, bit for bit.

    The first batch of a shape is evaluated at once and image by image. Where the bits agree, later ones are evaluated
    at once, elsewhere image by image, which takes up to half as long again.

    Args:
        model: `model(x, timesteps, class_labels, keep=None) -> (N, 2C, h, w)`.
        invariant: shape -> whether its bits agreed; kept by whoever keeps the model.
    """

    def evaluate(x: Tensor, timesteps: Tensor, class_labels: Tensor, keep: Tensor | None = None) -> Tensor:
        shape = (torch.get_num_threads(), *x.shape, 0 if keep is None else keep.shape[1])
        if len(x) == 1 or invariant.get(shape):
            return model(x, timesteps, class_labels, keep)
        batch = x, timesteps, class_labels, keep
        images = zip(*([None] * len(x) if each is None else each.split(1) for each in batch), strict=True)
        one_by_one = torch.cat([model(*image) for image in images])
        if shape not in invariant:
            invariant[shape] = torch.equal(one_by_one, model(*batch))
        return one_by_one

    return evaluate
