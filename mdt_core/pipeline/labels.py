"""Class labels and seeds as users write them, one or several, and as the model takes them, one of each per image."""

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

ClassLabel = int | str | None  # an index, a name, or None for no class
ClassLabels = ClassLabel | Sequence[ClassLabel]
Seeds = int | Sequence[int] | None


def class_index(label: ClassLabel, id2label: Mapping[int, str]) -> int:
    """The index of a class given by index or name; None is the null class, the index after the last.

    A name of another case or Unicode form is taken where it can mean one class alone.

    Raises:
        ValueError: there is no such class, or the name may mean several.
    """
    if label is None:
        return len(id2label)
    if isinstance(label, str):
        loose = _loose(label)
        alike = [index for index, name in id2label.items() if _loose(name) == loose]
        named = [index for index in alike if id2label[index] == label] or alike
        if len(named) > 1:
            candidates = " or ".join(f"{index} ({id2label[index]})" for index in named)
            raise ValueError(f"several classes may be meant by {label!r}: choose {candidates} by its index")
        if named:  # a name may be a number, of another class
            return named[0]
        if not re.fullmatch("-?[0-9]+", label):
            near = difflib.get_close_matches(label, id2label.values(), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"this model knows {len(id2label)} classes"
            raise ValueError(f"no class is called {label!r}: {hint}")
    index = whole(label, "a class")
    if not 0 <= index < len(id2label):
        raise ValueError(f"class {index} is out of range: this model has classes 0 to {len(id2label) - 1}")
    return index


def _loose(name: str) -> str:
    """What names of another case or Unicode form share: on a Mac a folder's é is two characters."""
    return unicodedata.normalize("NFC", name.casefold())


def class_indices(labels: ClassLabels, id2label: Mapping[int, str], count: int) -> list[int]:
    """The index of every image's class; a single label goes with all images.

    Raises:
        ValueError: there is no such class, or another number of labels than of images.
    """
    labels = as_list(labels)
    if len(labels) not in (1, count):
        raise ValueError(f"{len(labels)} class labels do not go with {count} seeds: give one per image")
    return [class_index(label, id2label) for label in labels] * (count // len(labels))


def image_seeds(seeds: Seeds, labels: ClassLabels) -> list[int]:
    """One seed per image: as given, one for all labels, or drawn at random.

    Raises:
        ValueError: labels or seeds are empty, or a seed is no whole number.
    """
    count = len(as_list(labels))
    if not count:
        raise ValueError("class_labels is empty: give at least one, None for an image of no class")
    if seeds is None:
        return torch.randint(2**31, (count,)).tolist()
    seeds = [whole(seed, "a seed") for seed in as_list(seeds)]
    if not seeds:
        raise ValueError("seeds is empty: give one per image, or None")
    return seeds * count if len(seeds) == 1 else seeds


def whole(value: int | float | str, what: str) -> int:
    """A number that may have come as 5.0. ValueError, "`what` must be a whole number", where it is none."""
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{what} must be a whole number, not {value}")
    return int(value)


def as_list(value) -> list:
    """One label or seed as a list of one, several as they come."""
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
