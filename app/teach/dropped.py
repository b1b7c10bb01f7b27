"""What a visitor drops: pictures and zips of them, checked and cropped before anything is learnt from them."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from errno import ENOSPC
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from app.common.images import open_header
from app.hosting.limits import MIB
from train.teach.pictures import check_pictures
from train.teach.plan import check_name

MOST_CLASSES = 8  # taught at once
MOST_PICTURES = 2000  # of all classes
MOST_UNPACKED = 512 * MIB  # of a zip
TOO_MANY = "holds more than {:,} pictures: drop fewer."
ENTRY = b"PK\1\2"  # stands before each entry of a zip's directory


@dataclass(frozen=True)
class Picture:
    """A file that was dropped, and what became of it."""

    name: str
    crop: Path | None = None  # the square that is learnt, as a PNG; None where it is refused
    problem: str = ""  # why it is refused
    twin: str = ""  # the name of a picture that is the same: then this one is not learnt

    @property
    def learnt(self) -> Path | None:
        """The crop, where it is learnt."""
        return None if self.twin else self.crop


@dataclass
class Draft:
    """The pictures that were dropped so far, as crops in a folder of their own that lives as long as the session."""

    size: int = 0  # pixels of a crop: the model's
    classes: dict[int, dict[str, list[Picture]]] = field(default_factory=dict)  # drop zone -> name, "" -> pictures
    files: dict[int, tuple[str, ...]] = field(default_factory=dict)  # what these were made of
    folder: Path | None = None
    model: str = ""  # that the sheet was made with
    sheet: str = ""  # the contact sheet, as HTML
    status: str = ""  # the status line

    @property
    def by_name(self) -> Iterator[tuple[int, str, list[Picture]]]:
        """Drop zone, the class's own name or "", and its pictures."""
        for zone, found in sorted(self.classes.items()):
            for name, pictures in found.items():
                yield zone, name, pictures

    @property
    def learnt(self) -> list[Path]:
        """The crops of all that is learnt from."""
        return [crop for _, _, pictures in self.by_name for picture in pictures if (crop := picture.learnt)]

    def read(self, zones: Sequence[Sequence[str] | None], size: int) -> None:
        """Look at what lies in the drop zones; what was looked at already is not looked at again.

        ValueError where a zip cannot be read, or there is too much.
        """
        if self.folder is None or not self.folder.exists():
            self.close()
            self.folder = Path(tempfile.mkdtemp(prefix="teach-"))
        if size != self.size:
            self.size, self.classes, self.files = size, {}, {}
        for zone, given in enumerate(zones):
            files = tuple(given or ())
            if files != self.files.get(zone, ()):
                self.files[zone], self.classes[zone] = (), {}
                shutil.rmtree(self.folder / str(zone), ignore_errors=True)
                self.classes[zone] = self._look(files, self.folder / str(zone))
                self.files[zone] = files

    def _look(self, files: Sequence[str], folder: Path) -> dict[str, list[Picture]]:
        sorted_out = sort_out([Path(file) for file in files], folder / "unpacked")
        others = sum(len(pictures) for _, _, pictures in self.by_name)
        if others + sum(map(len, sorted_out.values())) > MOST_PICTURES:
            raise ValueError(f"{MOST_PICTURES:,} pictures are the most that are learnt at once: drop fewer.")
        return {
            name: [*look_at(found, self.size, folder / str(number))]
            for number, (name, found) in enumerate(sorted_out.items())
        }

    def named(self, names: Sequence[str | None]) -> dict[str, list[Path]]:
        """Name of a class -> crops to learn it from. `names`: of the drop zones; a zip may bring its own.

        ValueError where a name is missing, there twice or none, or where a class has no picture.
        """
        classes: dict[str, list[Path]] = {}
        for zone, own, pictures in self.by_name:
            if not (name := " ".join((own or names[zone] or "").split())):
                raise ValueError("Give the class of these pictures a name.")
            check_name(name)
            if name in classes:
                raise ValueError(f"Two classes are called {name}: give them different names.")
            classes[name] = [crop for picture in pictures if (crop := picture.learnt)]
            if not classes[name]:
                raise ValueError(f"No picture of {name} can be used: drop others.")
        if not classes:
            raise ValueError("Drop some pictures of what the model is to learn.")
        return classes

    def close(self) -> None:
        """Delete the crops."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder, self.size, self.classes, self.files, self.sheet, self.status = None, 0, {}, {}, "", ""


def look_at(files: Sequence[Path], size: int, folder: Path) -> Iterator[Picture]:
    """Each file, cropped to `size` pixels into `folder`, or refused."""
    folder.mkdir(parents=True, exist_ok=True)
    problems = {file: problem_of(file) for file in files}
    checked = iter(check_pictures([file for file in files if not problems[file]], size))
    for number, file in enumerate(files):
        result = None if problems[file] else next(checked)
        if result is None or result.picture is None:
            yield Picture(file.name, problem=problems[file] or result.problem)
            continue
        crop = folder / f"{number:04}.png"
        result.picture.save(crop, compress_level=1)
        yield Picture(file.name, crop, twin=Path(result.duplicate_of).name if result.duplicate_of else "")


def problem_of(file: Path) -> str:
    """Why a file is not even tried to be decoded; empty where it is."""
    try:
        open_header(file).close()
        return ""
    except ValueError as error:
        return str(error)


# --- zips ------------------------------------------------------------------------------------------------------------


def sort_out(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """The pictures by class: "" for the drop zone's own, else the name of the folder of a zip that holds several."""
    classes: dict[str, list[Path]] = {}
    for number, file in enumerate(files):
        if file.suffix.lower() != ".zip":
            classes.setdefault("", []).append(file)
            continue
        unpacked = unpack(file, folder / str(number))
        several = len({above for above, _ in unpacked}) > 1
        for above, path in unpacked:
            classes.setdefault(above if several else "", []).append(path)
    return classes


def unpack(file: Path, folder: Path) -> list[tuple[str, Path]]:
    """The files of a zip as (name of the folder that each was in, path), each under a number of ours.

    ValueError where it cannot be read, or unpacks to too much.
    """
    if file.read_bytes().count(ENTRY) > 2 * MOST_PICTURES:  # before a directory of millions becomes objects
        raise ValueError(f"{file.name} {TOO_MANY.format(MOST_PICTURES)}")
    try:
        with ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if is_wanted(entry)]
            if not (problem := problem_of_entries(entries)):
                return [unpack_one(archive, entry, folder / str(number)) for number, entry in enumerate(entries)]
    except Exception as error:  # the reader raises all kinds of exceptions on broken data
        if isinstance(error, OSError) and error.errno == ENOSPC:
            raise
        problem = "is no zip that can be read: pack it again."
    raise ValueError(f"{file.name} {problem}")


def is_wanted(entry: ZipInfo) -> bool:
    """Whether an entry is a file, and none that an operating system adds."""
    parts = Path(entry.filename).parts
    return bool(parts) and not entry.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts)


def problem_of_entries(entries: Sequence[ZipInfo]) -> str:
    """Why they are not unpacked: too many, too large, or packed so that this cannot be told; empty where they are."""
    if len(entries) > MOST_PICTURES:
        return TOO_MANY.format(MOST_PICTURES)
    if any(entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED) or entry.flag_bits & 1 for entry in entries):
        return "is locked or packed in an unusual way: pack it again as a plain zip."
    if sum(entry.file_size for entry in entries) > MOST_UNPACKED:
        return f"unpacks to more than {MOST_UNPACKED // MIB} MB: drop fewer or smaller pictures."
    return ""


def unpack_one(archive: ZipFile, entry: ZipInfo, folder: Path) -> tuple[str, Path]:
    """Write one entry into `folder`, which is its own; no more is read than the directory said."""
    *above, name = Path(entry.filename).parts
    folder.mkdir(parents=True)
    path = folder / (re.sub(r"[^\w.-]+", "-", name)[-60:] or "picture")  # of at most 255 bytes
    with archive.open(entry) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return (above[-1] if above else ""), path
