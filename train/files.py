"""Files of arrays, which a command line may name: damaged or foreign ones are refused by name, in one sentence."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import safe_open

from mdt_core.runs import CURE, reading, write_whole


@contextmanager
def open_arrays(path: Path, cure: str = CURE) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an npz, each read when it is asked for. What is not as it should be raises as in `reading`."""
    with reading(path, cure):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no npz file, or its end is missing")
        with np.load(path) as arrays:  # refuses pickled objects
            yield arrays


@contextmanager
def open_tensors(path: Path, framework: str = "pt", cure: str = CURE) -> Iterator[safe_open]:
    """A safetensors file. What is not as it should be raises as in `reading`."""
    with reading(path, cure), safe_open(path, framework) as file:
        yield file


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz, whole or not at all."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # given a path, numpy would add a suffix of its own
            np.savez(file, **arrays)

    write_whole(path, write)
