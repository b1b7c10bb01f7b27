"""The logs of training runs: JSON lines that are read once, and from then on only where they have grown."""

import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np

LARGEST = 1e100  # larger numbers say nothing, and no axis holds them; NaN is not below it either
LONGEST = 1 << 20  # bytes of a line; what is longer is no row
AT_ONCE = 1 << 25  # bytes that are read at most before the page gets an answer
REMEMBERED = 64  # bytes before the place reached that tell whether the file is still the same

Column = Callable[[Mapping[str, Any]], str | None]  # a row -> the key of the number that is wanted


@dataclass(frozen=True, eq=False)
class Curve:
    """A number over the steps of training, float64 both; steps ascend and differ."""

    steps: np.ndarray = field(default_factory=partial(np.zeros, 0))
    values: np.ndarray = field(default_factory=partial(np.zeros, 0))

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return zip(self.steps.tolist(), self.values.tolist(), strict=True)

    def at(self, step: float) -> float | None:
        """The value last written up to a step."""
        place = int(np.searchsorted(self.steps, step, "right"))
        return float(self.values[place - 1]) if place else None


class Log:
    """A file of rows that each have a "step", of which one column is kept. May be read by several threads."""

    def __init__(self, path: Path, column: Column):
        self.path, self.column = path, column
        self._lock = Lock()
        self._restart(None)

    def read(self) -> tuple[Curve, dict[str, Any]]:
        """The column, and the row of the largest step, as far as the file is written.

        A file that shrank or was replaced is read anew; what is no file (any more) has no rows. Of two rows of one
        step the later counts, as a resumed run logs some again. Of a long file a part is read: `behind` says whether
        there is more to come.
        """
        with self._lock:
            try:
                # A pipe would keep its reader waiting for a writer.
                with self.path.open("rb") if self.path.is_file() else open(os.devnull, "rb") as file:
                    self._follow(file)
            except FileNotFoundError:  # deleted since
                self._restart(None)
            return self._curve(), self._last

    def _restart(self, identity: tuple[int, int] | None) -> None:
        self._identity, self._place, self._before = identity, 0, b""
        self._key: str | None = None
        self.behind = False
        self._last: dict[str, Any] = {}
        self._steps, self._values = array("d"), array("d")

    def _follow(self, file: BinaryIO) -> None:
        """Take in the whole lines after the place reached; the last one may be half written."""
        status = os.fstat(file.fileno())
        file.seek(max(self._place - len(self._before), 0))
        identity = (status.st_dev, status.st_ino)
        if identity != self._identity or file.read(len(self._before)) != self._before:
            self._restart(identity)
            file.seek(0)
        self.behind = status.st_size - self._place > AT_ONCE
        end = self._place + AT_ONCE
        for line in iter(partial(file.readline, LONGEST), b""):
            row = parse(line)
            if row is None and not line.endswith(b"\n") and len(line) < LONGEST:
                break
            self._place += len(line)
            self._before = line[-REMEMBERED:]
            if row is not None:
                self._append(row)
            if self._place >= end:
                break

    def _append(self, row: dict[str, Any]) -> None:
        if row["step"] >= self._last.get("step", -LARGEST):
            self._last = row
        self._key = self._key or self.column(row)
        value = row.get(self._key)
        if isinstance(value, int | float) and row["step"] > 0 and abs(value) < LARGEST:
            self._steps.append(row["step"])
            self._values.append(value)

    def _curve(self) -> Curve:
        steps, values = np.array(self._steps), np.array(self._values)
        if (np.diff(steps) <= 0).any():
            order = np.argsort(steps, kind="stable")
            steps, values = steps[order], values[order]
            latest = np.append(np.diff(steps) > 0, True)
            steps, values = steps[latest], values[latest]
        return Curve(steps, values)


def parse(line: bytes) -> dict[str, Any] | None:
    """A row, its step a whole number; None where the line is none: cut short, or JSON of another kind."""
    try:
        row = json.loads(line)
        row["step"] = int(row["step"])
        return row if abs(row["step"]) < LARGEST else None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # a step of Infinity, nests of brackets
        return None
