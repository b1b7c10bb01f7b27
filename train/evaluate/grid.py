"""A labelled grid of samples: one row a class, its name in front, for a person to look at."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from train.evaluate.samples import ImageSet

GAP = 4  # px between images and around them
LEAST_SIDE = 64  # px: smaller images are enlarged by a whole factor


def draw_grid(samples: ImageSet, per_class: int = 8) -> Image.Image:
    """The first `per_class` images of every class.

    Args:
        samples: images with labels; a class without a name is called by its number.
        per_class: images in a row; a class that has fewer leaves the rest of its row white.

    Raises:
        ValueError: the images have no labels.
    """
    if samples.labels is None:
        raise ValueError("a grid has one row per class: these images have no labels")
    classes = np.unique(samples.labels).tolist()
    names = [samples.names[c] if c < len(samples.names) else f"class {c}" for c in classes]
    height, width = samples.images.shape[1:3]
    zoom = -(-LEAST_SIDE // height)  # rounded up
    row, column = zoom * height + GAP, zoom * width + GAP

    font = ImageFont.load_default(size=max(12, zoom * height // 6))
    margin = int(max(font.getlength(name) for name in names)) + 3 * GAP
    grid = Image.new("RGB", (margin + per_class * column, GAP + len(classes) * row), "white")
    pen = ImageDraw.Draw(grid)
    for r, (label, name) in enumerate(zip(classes, names, strict=True)):
        top = GAP + r * row
        pen.text((margin - 2 * GAP, top + zoom * height / 2), name, fill="black", font=font, anchor="rm")
        for c, index in enumerate(np.flatnonzero(samples.labels == label)[:per_class]):
            image = Image.fromarray(samples.images[index])
            image = image.resize((zoom * width, zoom * height), Image.Resampling.NEAREST)
            grid.paste(image, (margin + c * column, top))
    return grid
