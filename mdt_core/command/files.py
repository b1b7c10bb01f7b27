"""The files and folders that a command line names: what is wrong with one is said in a sentence, before the work."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def check_out_folder(folder: Path) -> None:
    """ValueError where a folder to be written is there already and holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not an empty folder: name another")


def check_image_path(path: Path) -> None:
    """ValueError where no picture can be written to `--out`: before the work, not after it."""
    from PIL import Image

    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: the folder {path.parent} does not exist")
    try:
        Image.new("RGB", (16, 16)).save(BytesIO(), Image.registered_extensions()[path.suffix.lower()])
    except (KeyError, ValueError, OSError):  # no picture's, or one that cannot be written, or not in colour
        raise ValueError(f"--out {path}: the name must end in an image format's suffix, such as .png") from None
    new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise ValueError(f"--out {path}: cannot be written ({error.strerror})") from error
    if new:
        path.unlink()


def open_image(path: Path) -> "Image.Image":
    """A picture as it is meant to be seen, with the camera's rotation applied. ValueError where there is none."""
    from PIL import Image, ImageOps

    try:
        return ImageOps.exif_transpose(Image.open(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: too large, at most {2 * Image.MAX_IMAGE_PIXELS:,} pixels can be opened") from error
    except Exception as error:  # decoders raise all kinds of exceptions on broken data
        raise ValueError(f"{path}: not a picture that can be opened, or a damaged one") from error
