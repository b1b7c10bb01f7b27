"""Class labels as users write them, an index or a name, and the index that the model takes."""

import difflib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

ClassLabel = int | str | None  # an index, a name, or None for no class


def class_index(label: ClassLabel, id2label: Mapping[int, str]) -> int:
    """The index of a class given by index or name; None is the null class, the index after the last.

    Raises:
        ValueError: there is no such class.
    """
    if label is None:
        return len(id2label)
    by_name = {name.casefold(): index for index, name in id2label.items()}
    if isinstance(label, str) and label.casefold() in by_name:  # a name may be a number, of another class
        return by_name[label.casefold()]
    if isinstance(label, str) and not re.fullmatch("-?[0-9]+", label):
        near = difflib.get_close_matches(label.casefold(), by_name, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"this model knows {len(id2label)} classes"
        raise ValueError(f"no class is called {label!r}: {hint}")
    index = whole(label, "a class")
    if not 0 <= index < len(id2label):
        raise ValueError(f"class {index} is out of range: this model has classes 0 to {len(id2label) - 1}")
    return index


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
