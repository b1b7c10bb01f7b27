"""Class labels and seeds as users write them, one or several, and as the model takes them, one of each per image."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor

ClassLabel = int | str | None  # an index, a name, or None for no class
ClassMix = Mapping[ClassLabel, float]  # class -> how much of it, 0 to MAX_WEIGHT; of the sum of all
ClassLabels = ClassLabel | ClassMix | Sequence[ClassLabel | ClassMix]
Seeds = int | Sequence[int] | None

MAX_MIXED, MAX_WEIGHT = 8, 1000  # classes in one picture, and how much of each


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


def class_weights(label: ClassLabel | ClassMix, id2label: Mapping[int, str]) -> dict[int, float]:
    """Class indices and their weights, as given, without those of 0: of a mix, or of one class alone.

    Raises:
        ValueError: there is no such class, too many are mixed, or a weight is none.
    """
    if not isinstance(label, Mapping):
        return {class_index(label, id2label): 1.0}
    if len(label) > MAX_MIXED:
        raise ValueError(f"at most {MAX_MIXED} classes can be mixed, not {len(label)}")
    weights: Counter[int] = Counter()
    for each, weight in label.items():
        if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 <= weight <= MAX_WEIGHT:  # nor NaN
            raise ValueError(f"the weight of class {each!r} must be a number from 0 to {MAX_WEIGHT}, not {weight!r}")
        weights[class_index(each, id2label)] += float(weight)
    if not any(weights.values()):
        raise ValueError("a mix of classes needs at least one weight above 0")
    return {index: weight for index, weight in weights.items() if weight > 0}


def label_tensor(labels: ClassLabels, id2label: Mapping[int, str], count: int) -> Tensor:
    """Every image's class as the model takes it; a single label goes with all images.

    Returns:
        (count,) indices, int64; where classes are mixed, (count, len(id2label) + 1) weights, float32.

    Raises:
        ValueError: a label is wrong, or there is another number of labels than of images.
    """
    labels = as_list(labels)
    if len(labels) not in (1, count):
        raise ValueError(f"{len(labels)} class labels do not go with {count} seeds: give one per image")
    mixes = [class_weights(label, id2label) for label in labels] * (count // len(labels))
    if all(len(mix) == 1 for mix in mixes):
        return torch.tensor([index for mix in mixes for index in mix])
    weights = torch.zeros(count, len(id2label) + 1)
    for row, mix in zip(weights, mixes, strict=True):
        total = sum(mix.values())
        row[list(mix)] = torch.tensor([weight / total for weight in mix.values()])
    return weights


def parse_label(text: str, id2label: Mapping[int, str]) -> ClassLabel | ClassMix:
    """A class, or a mix of classes written as "dylan:0.6,sprouts:0.4"; a name may have commas and colons itself.

    Raises:
        ValueError: there is no such class, or the mix is written otherwise.
    """
    try:
        return class_index(text, id2label)
    except ValueError:
        if ":" not in text:
            raise
    mix: Counter[ClassLabel] = Counter()
    name: list[str] = []  # the parts of one that has commas
    for part in text.split(","):
        before, colon, weight = part.rpartition(":")
        try:
            mix[",".join([*name, before]).strip()] += float(weight if colon else "")
            name = []
        except ValueError:
            name.append(part)
    if name:
        raise ValueError(f"a mix of classes is written as NAME:0.6,NAME:0.4, not as {text!r}")
    return mix


def label_text(label: ClassLabel | ClassMix, id2label: Mapping[int, str]) -> str:
    """A class, or a mix of classes, as people read it: "dylan 60% + sprouts 40%". Raises as `class_weights` does."""
    names = {**id2label, len(id2label): "no class"}
    mix = class_weights(label, id2label)
    if len(mix) == 1:
        return names[next(iter(mix))]
    total = sum(mix.values())
    return " + ".join(f"{names[index]} {weight / total:.0%}" for index, weight in mix.items())


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
