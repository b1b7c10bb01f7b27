"""Image files as training data: every mode upright on white, classes by folder or by ADM's rule, broken files named."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mdt_core.pipeline.image_arrays import picture_array
from train.latents.images import (
    BrokenImage,
    DrawnImages,
    ImageFolder,
    LabelledImages,
    list_images,
    open_images,
    read_square,
    read_upright,
)

RED_OVER_BLUE = np.concatenate([np.full((8, 16, 3), (255, 0, 0)), np.full((8, 16, 3), (0, 0, 255))]).astype(np.uint8)


def some_image(path: Path, size: tuple[int, int] = (16, 16), color: str = "red", **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


def classes_of(images: LabelledImages) -> list[str]:
    return [images.id2label[images[index][1]] for index in range(len(images))]


def test_a_class_is_a_folder_at_any_depth(tmp_path):
    """Catches labels by an order other than the names', classes from the top folder alone, hidden files as images."""
    for path in ("b/1.png", "a/cats/1.jpg", "a/cats/2.JPEG", "a/dogs/1.webp", "a/.trash/1.png", "a/dogs/._1.png"):
        some_image(tmp_path / path)
    (tmp_path / "a/cats/notes.txt").write_text("no image")
    images = ImageFolder(tmp_path, 8)
    assert images.id2label == {0: "a/cats", 1: "a/dogs", 2: "b"}
    assert classes_of(images) == ["a/cats", "a/cats", "a/dogs", "b"]
    assert images[0][0].shape == (3, 8, 8) and images[0][0].dtype == np.uint8


def test_a_linked_class_counts(tmp_path):
    """Catches subsets made of links, as those of ImageNet often are, that are read as empty."""
    some_image(tmp_path / "all/n01/1.png")
    (tmp_path / "few").mkdir()
    os.symlink(tmp_path / "all/n01", tmp_path / "few/n01")
    assert list_images(tmp_path / "few") == ["n01/1.png"]


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    """Catches 246 images and 82 classes of 6 and 2: a folder that holds itself, by one link or by two."""
    for path in ("set/a/1.png", "set/b/2.png", "other/c/3.png"):
        some_image(tmp_path / path)
    os.symlink(tmp_path / "set", tmp_path / "set/a/again")
    os.symlink(tmp_path, tmp_path / "set/a/above")
    os.symlink(tmp_path / "other", tmp_path / "set/b/other")
    os.symlink(tmp_path / "set/b", tmp_path / "other/c/back")
    os.symlink(tmp_path / "set/a", tmp_path / "set/twin")
    expected = ["a/1.png", "b/2.png", "b/other/c/3.png", "twin/1.png"]
    assert list_images(tmp_path / "set") == expected
    os.symlink(tmp_path / "set", tmp_path / "link")
    assert list_images(tmp_path / "link") == expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems write no such names")
def test_a_class_name_that_is_not_utf_8_is_refused_and_a_file_name_is_not(tmp_path):
    """Catches a model whose names no app can show, and a list of broken files that cannot be written."""
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9")))
    some_image(folder / "1.png")
    with pytest.raises(ValueError, match=r"the class 'caf\\udce9' has a name that is not UTF-8: rename it"):
        ImageFolder(tmp_path, 8)
    (folder / "1.png").write_bytes(b"broken")
    images = ImageFolder(tmp_path, 8, names=["cafe"])
    with pytest.raises(BrokenImage, match=r"caf\ufffd/1.png: "):
        images[0]


def test_adm_names_classes_in_file_names(tmp_path):
    """Catches another rule than guided-diffusion's: the name up to the first underscore, sorted."""
    for name in ("dog_0_1.png", "cat_7.png", "sub/dog_2.png"):
        some_image(tmp_path / name)
    images = ImageFolder(tmp_path, 8, classes="prefix")
    assert images.id2label == {0: "cat", 1: "dog"}
    assert classes_of(images) == ["cat", "dog", "dog"]


def test_without_classes_every_label_is_the_null_class(tmp_path):
    """A model of no classes has its null class at 0. Catches a class called "." or one class per file."""
    for name in ("1.png", "2.png"):
        some_image(tmp_path / name)
    for rule in ("folder", "prefix", "none"):
        images = ImageFolder(tmp_path, 8, classes=rule)
        assert images.id2label == {} and [images[i][1] for i in range(2)] == [0, 0]
    some_image(tmp_path / "a/3.png")
    assert ImageFolder(tmp_path, 8, classes="none").id2label == {}
    with pytest.raises(ValueError, match=r"1.png has no class"):
        ImageFolder(tmp_path, 8)


def test_names_replace_folders(tmp_path):
    for folder in ("n01", "n02"):
        some_image(tmp_path / "images" / folder / "1.png")
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"0": "tench", "1": "goldfish"}))
    assert open_images(tmp_path / "images", "train", 8, names=names).id2label == {0: "tench", 1: "goldfish"}
    (tmp_path / "images" / "n02").rename(tmp_path / "images" / "n10")
    for number in range(2, 11):
        some_image(tmp_path / "images" / f"n{10 + number}" / "1.png")
    names.write_text(json.dumps({str(i): f"name {i}" for i in range(11)}, sort_keys=True))  # 0, 1, 10, 2, ...
    assert open_images(tmp_path / "images", "train", 8, names=names).id2label[2] == "name 2"
    for wrong in ({"0": ["n01", "tench"], "1": ["n02", "goldfish"]}, "tench", {"n01": "tench"}, [1, 2]):
        names.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"names.json holds no class names"):
            open_images(tmp_path / "images", "train", 8, names=names)
    names.write_text(json.dumps(["tench"]))
    with pytest.raises(ValueError, match="1 class names"):
        open_images(tmp_path / "images", "train", 8, names=names)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    """Catches 16 bits that clip to white, CMYK read as RGB, palettes read as indices."""
    grey = Image.fromarray(np.full((16, 16), 255 if mode == "1" else 102, np.uint8))
    deep = Image.fromarray(np.full((16, 16), 102 * 257, np.uint16))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    (deep if mode == "I;16" else grey.convert("RGB").convert(mode) if mode == "CMYK" else grey.convert(mode)).save(path)
    square = np.asarray(read_square(path, 8)).astype(int)
    assert square.shape == (8, 8, 3)
    assert np.abs(square - (255 if mode == "1" else 102)).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_profile_is_obeyed_once_and_a_broken_one_is_not(tmp_path, mode):
    """A profile whose red and blue are swapped. Catches colours that change with the profile that is lost, a
    conversion that is done twice, and one that loses transparency.
    """
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"----"), (b"bXYZ", b"rXYZ"), (b"----", b"bXYZ")):
        profile = profile.replace(old, new)
    image = Image.new("RGBA", (16, 16), (200, 100, 50, 255))
    if mode == "RGBA":
        image.paste((200, 100, 50, 0), (0, 0, 16, 8))
    for name, icc in (("swapped", profile), ("cut", profile[:200]), ("none", b"")):
        path = tmp_path / f"{name}.png"
        image.convert(mode).save(path, icc_profile=icc)
        seen = read_upright(path)
        again = picture_array(seen)
        assert np.array_equal(again, np.asarray(seen)) and "icc_profile" not in seen.info
        assert np.abs(again[-1, 0].astype(int) - ((50, 100, 200) if name == "swapped" else (200, 100, 50))).max() <= 1
        assert mode != "RGBA" or (again[0, 0] == 255).all()


def test_an_srgb_profile_changes_nothing(tmp_path):
    """Catches rounding in pictures of that profile, as most that have one are."""
    noise = Image.effect_noise((64, 64), 90)
    noise = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)])
    noise.save(tmp_path / "a.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert np.array_equal(read_upright(tmp_path / "a.png"), noise)


def test_transparency_is_white_and_leaves_no_fringe(tmp_path):
    """A red disc whose clear surroundings are stored black. Catches a resize before the flattening: dark edges."""
    y, x = np.mgrid[:64, :64]
    disc = ((y - 32) ** 2 + (x - 32) ** 2 < 400)[..., None]
    Image.fromarray(np.where(disc, (255, 0, 0, 255), (0, 0, 0, 0)).astype(np.uint8)).save(tmp_path / "a.png")
    square = np.asarray(read_square(tmp_path / "a.png", 16)).astype(int)
    assert (square[0, 0] == 255).all() and (square[8, 8] == (255, 0, 0)).all()
    assert square[..., 0].min() >= 250  # red stays full from the disc's middle to white


def test_a_photo_is_turned_upright_and_cut_in_its_middle(tmp_path):
    """Catches EXIF that is ignored, and a crop from the corner."""
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(RED_OVER_BLUE).save(tmp_path / "a.png", exif=exif)
    square = np.asarray(read_square(tmp_path / "a.png", 4))
    assert (square[0] == (0, 0, 255)).all() and (square[-1] == (255, 0, 0)).all()
    wide = np.concatenate([np.zeros((16, 16, 3)), RED_OVER_BLUE, np.zeros((16, 16, 3))], axis=1).astype(np.uint8)
    Image.fromarray(wide).save(tmp_path / "b.png")
    assert np.asarray(read_square(tmp_path / "b.png", 16)).tolist() == RED_OVER_BLUE.tolist()


def test_a_large_photo_is_averaged_not_picked(tmp_path):
    """Stripes one pixel wide are grey from afar. Catches aliasing, and a JPEG decoded at too small a size."""
    stripes = np.zeros((512, 768, 3), np.uint8)
    stripes[::2] = 255
    for name in ("a.png", "a.jpg"):
        Image.fromarray(stripes).save(tmp_path / name)
        square = np.asarray(read_square(tmp_path / name, 16)).astype(int)
        assert square.shape == (16, 16, 3) and np.abs(square - 127).max() <= 3


def test_a_broken_file_is_named_with_its_reason(tmp_path):
    """Catches a decoder's own exception, which would end an encoding of a million images."""
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-1500])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no image")
    images = ImageFolder(tmp_path, 8)
    for index, name in enumerate(("cut.png", "empty.jpg", "text.png")):
        with pytest.raises(BrokenImage, match=rf"{name}: \w") as error:
            images[index]
        assert "\n" not in str(error.value)


def test_what_is_no_source_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_images(tmp_path / "nowhere", "train", 8)
    with pytest.raises(ValueError, match="--size"):
        open_images(tmp_path, "train")
    with pytest.raises(ValueError, match="holds no images"):
        open_images(tmp_path, "train", 8)


def test_a_drawn_set_and_files_read_alike(tmp_path):
    """Catches a drawn set's class names or size that get lost: the same small interface serves both."""
    from train import avatars

    split = avatars.Split(np.full((2, 3, 8, 8), 7, np.uint8), np.array([1, 0]), np.arange(2), names=("cat", "dog"))
    avatars.save(tmp_path, "validation", split)
    images = open_images(tmp_path, "validation")
    assert isinstance(images, DrawnImages) and images.size == 8 and classes_of(images) == ["dog", "cat"]
    assert (images[0][0] == 7).all()
    with pytest.raises(FileNotFoundError, match=r"train.safetensors is missing"):
        open_images(tmp_path, "train")
