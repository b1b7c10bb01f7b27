"""Pictures before they are taught: which can be used, how they are cropped, which are copies, what the model sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mdt_core import MDTPipeline
from mdt_core.fingerprint import fingerprint
from mdt_core.pipeline.decoding import to_latents
from train.latents.images import ImageFolder, read_square

MOST_PIXELS = 64_000_000  # of a file, checked before it is decoded
COPY = 3.0  # of 255: two pictures whose thumbnails differ less, root mean square, are the same one
THUMBNAIL = 16  # pixels
ENOUGH = 120  # pictures: fewer are seen in several crops each, so that the model learns drawings and not their places
MOST_CROPS = 4
MARGIN = 0.06  # of a picture's side: how far a crop may reach beyond it, or stay within


@dataclass(frozen=True)
class CheckedPicture:
    """A file as it would be taught."""

    file: str
    picture: Image.Image | None = None  # a square of the model's size; None where there is a problem
    problem: str | None = None  # why it cannot be used
    duplicate_of: str | None = None  # an earlier file that shows the same


def check_pictures(files: Sequence[str | Path], size: int) -> list[CheckedPicture]:
    """Look at every file: cropped to its largest centred square and brought to `size` x `size` pixels."""
    checked: list[CheckedPicture] = []
    seen: list[str] = []
    thumbnails = np.empty((len(files), 3 * THUMBNAIL**2), np.float32)
    for file in map(str, files):
        try:
            picture = _read(Path(file), size)
        except Exception as error:  # decoders raise all kinds of exceptions on broken data
            checked.append(CheckedPicture(file, problem=" ".join(str(error).split()) or type(error).__name__))
            continue
        small = np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float32).ravel()
        distances = np.sqrt(np.square(thumbnails[: len(seen)] - small).mean(axis=1))
        copy = seen[distances.argmin()] if len(seen) and distances.min() < COPY else None
        if copy is None:
            thumbnails[len(seen)] = small
            seen.append(file)
        checked.append(CheckedPicture(file, picture, duplicate_of=copy))
    return checked


def _read(path: Path, size: int) -> Image.Image:
    with Image.open(path) as image:
        width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too many: make it smaller")
    if min(width, height) < size // 4:
        raise ValueError(f"{width} x {height} pixels are too few: at least {size // 4} a side are needed")
    return read_square(path, size)


def reconstruct(pipe: MDTPipeline, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """What the autoencoder makes of pictures: all that the model can ever draw of them. Squares of `image_size`."""
    results = []
    for picture in pictures:
        pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32)).movedim(-1, 0)[None] / 127.5 - 1
        results += pipe.decode_images(to_latents(pipe.vae, pixels))
    return results


class ClassFolders:
    """Folders of pictures, each with its class, as `train.latents.encode` reads them.

    Few pictures come in several crops each, the first of them whole: a little moved, nearer or farther.

    Args:
        folders: class name -> folder.
        id2label: all classes of the taught model.
        size: side of the squares in pixels.

    Raises:
        ValueError: a folder holds no pictures.
    """

    def __init__(self, folders: Mapping[str, str], id2label: dict[int, str], size: int):
        self.id2label, self.size = id2label, size
        index_of = {name: index for index, name in id2label.items()}
        self.parts = [(index_of[name], ImageFolder(Path(f), 2 * size, classes="none")) for name, f in folders.items()]
        self.places = [(part, index) for part, (_, images) in enumerate(self.parts) for index in range(len(images))]
        self.crops = min(max(1, ENOUGH // len(self.places)), MOST_CROPS)

    @property
    def digest(self) -> str:
        return fingerprint([self.id2label, self.crops, [(label, images.digest) for label, images in self.parts]])

    def __len__(self) -> int:
        return len(self.places) * self.crops

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        part, place = self.places[index % len(self.places)]
        label, images = self.parts[part]
        picture = Image.fromarray(images[place][0].transpose(1, 2, 0))
        if index >= len(self.places):
            picture = random_crop(picture, np.random.default_rng(index))
        return np.asarray(picture.resize((self.size, self.size), Image.Resampling.LANCZOS)).transpose(2, 0, 1), label


def random_crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A square of a square picture, up to `MARGIN` beyond its edges, where the picture goes on as in a mirror."""
    margin = round(MARGIN * picture.width)
    wide = np.pad(np.asarray(picture), ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    side = rng.integers(picture.width - margin, picture.width + 2 * margin, endpoint=True)
    left, top = rng.integers(0, len(wide) - side, size=2, endpoint=True)
    return Image.fromarray(wide[top : top + side, left : left + side])
