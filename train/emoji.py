"""The emoji set: the same thousand things, each drawn by up to nine design teams.

Everything comes from pinned packages: the concepts and their subgroups from `emoji-datasource`, the drawings from
Iconify's sets (vectors) and one folder of 3D renderings. `train/emoji_classes.py` makes classes of the subgroups. Skin
tones, flags, signs and letters are left out.

The teams' drawings of one thing are near duplicates. So the validation split holds out whole concepts, chosen by a
fixed hash, with all their drawings: no training sees another team's version of them. Man, woman and person doing
the same count as one concept.

    python -m train.emoji data/emoji --size 64
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mdt_core.rgb import to_rgb
from train.avatars import Split, digests, rasterize, save, without
from train.command import Parser
from train.emoji_classes import CLASSES, class_of
from train.iconify import IconifySet, Package, fetch, read_json, squashed, without_selector

VALIDATION_SHARE = 0.05  # of the concepts

LABELS = Package("emoji-datasource", "16.0.0", "2006725061dc0098daa832d65f854a7bec0740af2eb47cb5b23d89f7e2c849f9")

# Credits in assets/CREDITS.md. The order is part of the set: an image's number ends with its team's place in it.
VECTORS = {
    "noto": Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "twemoji": Package(
        "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
    ),
    "fluent-flat": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
    ),
    "fluent": Package(
        "@iconify-json/fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
    ),
    "noto-v1": Package(
        "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"
    ),
    "emojitwo": Package(
        "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
    ),
    "streamline": Package(
        "@iconify-json/streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc"
    ),
}
# Code point -> icon where a set's names mislead: in fxemoji a bare name is the face, where elsewhere it is the animal;
# two sets call the bat and ball a cricket. None: a drawing that is not to be had, or that no renderer draws.
CORRECTIONS = {
    "fxemoji": {
        **{"1f431": "cat", "1f436": "dog", "1f437": "pig", "1f42d": "mouse", "1f42f": "tiger", "1f430": "bunny"},
        **{"1f408": "catside", "1f415": "dogside", "1f416": "pigside", "1f401": "mouseside", "1f405": "tigerside"},
        **{"1f407": "bunnyside", "1f432": "dragonhead", "1f409": "dragonside", "1f404": "cow", "1f40e": "horse"},
        **{"1f30a": "wave", "1f44b": None, "1f68b": None, "1f32b": None},
    },
    "noto-v1": {"1f997": None},
    "emojitwo": {"1f997": None},
}
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
)
TEAMS = (*VECTORS, "fluent-3d")


# --- concepts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Concept:
    """One thing that teams draw."""

    code: str  # lower-case code points joined by "-", without the variation selector
    number: int  # its place in Unicode's order
    label: int  # index into CLASSES
    names: tuple[str, ...]  # Unicode's, then what chat programs call it

    @property
    def held_out(self) -> bool:
        """Whether it belongs to the validation split: a fixed hash of what it shows, whoever does it."""
        neutral = re.sub("1f46[89]", "1f9d1", re.sub("-200d-264[02]", "", self.code))
        neutral = re.sub("1f47[45]", "1f9d3", neutral)  # old man, old woman, old person
        return int.from_bytes(hashlib.sha256(neutral.encode()).digest()[:4]) < VALIDATION_SHARE * 2**32


def read_concepts(emoji: Iterable[dict]) -> list[Concept]:
    """The concepts that have a class, from the rows of `emoji.json`."""
    labels = {name: label for label, name in enumerate(CLASSES)}
    concepts = []
    for row in emoji:
        code, name = without_selector(row["unified"]), class_of(row["short_name"], row["subcategory"])
        if name is None or code.endswith("-27a1"):  # "facing right": a mirror image of another one
            continue
        names = (row["name"] or "", *row["short_names"])
        concepts.append(Concept(code, row["sort_order"], labels[name], names))
    return sorted(concepts, key=lambda concept: concept.number)


# --- drawings ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawing:
    """A concept by a team: SVG text or the bytes of a picture."""

    concept: Concept
    team: str
    source: str | bytes


def join_names(concepts: list[Concept], sets: Iterable[IconifySet]) -> dict[str, list[str]]:
    """Code -> names under which sets without code points may keep it; every name belongs to one concept.

    The names of the sets that do know code points (Unicode's current ones) go first: an older name can be another
    concept's current one, as "dog" is the animal now and was the face once.
    """
    owner: dict[str, str] = {}
    for names_of in [
        *(lambda concept, one=one: one.names_of(concept.code) for one in sets),
        lambda concept: concept.names[:1],
        lambda concept: concept.names[1:],
    ]:
        for concept in concepts:
            for name in names_of(concept):
                owner.setdefault(squashed(name), concept.code)
    names: dict[str, list[str]] = {concept.code: [] for concept in concepts}
    for name, code in owner.items():
        names[code].append(name)
    return names


def collect(concepts: list[Concept], sets: dict[str, IconifySet], pictures: dict[str, bytes]) -> Iterator[Drawing]:
    """Every team's drawing of every concept.

    Args:
        concepts: what to look for.
        sets: team -> its vectors.
        pictures: code -> 3D rendering by the "fluent" team, taken where one of its free vector sets has the concept.
    """
    names = join_names(concepts, sets.values())
    for concept in concepts:
        found = {team: one.find(concept.code, names[concept.code]) for team, one in sets.items()}
        for team, icon in found.items():
            if icon is not None:
                yield Drawing(concept, team, sets[team].svg(icon))
        if concept.code in pictures and (found.get("fluent") or found.get("fluent-flat")):
            yield Drawing(concept, "fluent-3d", pictures[concept.code])


# --- the set -------------------------------------------------------------------------------------------------


def render(drawing: Drawing, size: int) -> np.ndarray:
    """A drawing as (size, size, 3) uint8, on white."""
    if isinstance(drawing.source, str):
        return rasterize(drawing.source, size)
    picture = to_rgb(Image.open(io.BytesIO(drawing.source)))
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))


def render_all(drawings: list[Drawing], size: int, workers: int) -> Split:
    """All drawings as one set; the number of an image is its concept's number x 10 + its team's."""
    with ProcessPoolExecutor(workers) as pool:
        rendered = pool.map(partial(render, size=size), drawings, chunksize=32)
        images = np.stack([*tqdm(rendered, total=len(drawings), desc="render", unit="image")])
    labels = np.array([drawing.concept.label for drawing in drawings], np.int64)
    numbers = np.array([d.concept.number * 10 + TEAMS.index(d.team) for d in drawings], np.int64)
    return Split(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels, numbers, tuple(CLASSES))


def without_repeats(split: Split) -> Split:
    """The first of each drawing: a team may draw man, woman and person alike."""
    first = {digest: row for row, digest in reversed(list(enumerate(digests(split.images))))}
    rows = np.array(sorted(first.values()))
    return Split(split.images[rows], split.labels[rows], split.seeds[rows], split.names)


def build(folder: Path, size: int, workers: int) -> None:
    """Write `folder/train.safetensors` and `folder/validation.safetensors`, the format of train/avatars.py."""
    packages = folder.parent / "packages"
    concepts = read_concepts(read_json(fetch(LABELS, packages), "emoji.json"))
    sets = {}
    for team, package in VECTORS.items():
        tarball = fetch(package, packages)
        codes = read_json(tarball, "chars.json") | CORRECTIONS.get(team, {})
        sets[team] = IconifySet(read_json(tarball, "icons.json"), codes)
    wanted = {concept.code for concept in concepts}
    pictures = {}
    tarball = fetch(FLUENT_3D, packages)
    for member in tarball:  # in its order: going back would unpack it from the start again
        if (code := without_selector(Path(member.name).stem)) in wanted:
            pictures[code] = tarball.extractfile(member).read()
    drawings = list(collect(concepts, sets, pictures))
    train, validation = (
        without_repeats(render_all([d for d in drawings if d.concept.held_out == held_out], size, workers))
        for held_out in (False, True)
    )
    save(folder, "train", train)
    save(folder, "validation", without(validation, set(digests(train.images))))


def main() -> None:
    parser = Parser(prog="python -m train.emoji", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=64, help="side in pixels (default 64)")
    parser.add_argument("--workers", type=int, default=2)
    parser.run(lambda args: build(args.folder, args.size, args.workers))


if __name__ == "__main__":
    main()
