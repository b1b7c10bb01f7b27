"""A labelled grid of samples: one row a class, its name in front, for a person to look at."""

import numpy as np
from PIL import Image

from mdt_core.pipeline.labelled_grid import LabelledGrid
from train.evaluate.sources import ImageSet

LEAST_SIDE = 64  # px: smaller images are enlarged by a whole factor


def class_grid(samples: ImageSet, per_class: int = 8) -> LabelledGrid:
    """The first `per_class` images of every class.

    Args:
        samples: images; a class without a name is called by its number, and those without labels are one row.
        per_class: images in a row; a class that has fewer leaves the rest of its row white.
    """
    labels = np.full(len(samples.images), -1) if samples.labels is None else samples.labels
    classes = np.unique(labels).tolist()
    known = {-1: "no class", **dict(enumerate(samples.names))}
    names = [known.get(label, f"class {label}") for label in classes]
    firsts = [np.flatnonzero(labels == label)[:per_class] for label in classes]
    rows = [[Image.fromarray(samples.images[index]) for index in indices] for indices in firsts]
    height, width = samples.images.shape[1:3]
    zoom = -(-LEAST_SIDE // height)  # rounded up
    return LabelledGrid(rows, (zoom * width, zoom * height), row_labels=names, resample=Image.Resampling.NEAREST)
