"""Drawings from npm's packages: pinned tarballs, and Iconify's format of icon sets.

An Iconify set is `icons.json`, an SVG body per icon name, and `chars.json`, code points -> icon name, empty in many.
"""

import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package of npm's registry, as pinned."""

    name: str
    version: str
    sha256: str  # of the tarball


def fetch(package: Package, folder: Path) -> tarfile.TarFile:
    """The package's tarball, fetched by the npm client if `folder` does not hold it yet.

    Raises:
        ValueError: npm is missing or failed, or the file is not the one pinned.
    """
    path = folder / f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"--pack-destination={folder}", f"{package.name}@{package.version}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise ValueError("the npm client is missing: install npm (Debian: apt-get install npm)") from error
        except subprocess.CalledProcessError as error:
            raise ValueError(f"{' '.join(command)} failed: {error.stderr.strip()}") from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise ValueError(f"{path} is not the file that {package.name} {package.version} was: delete it and try again")
    return tarfile.open(path)


def read_json(package: tarfile.TarFile, name: str):
    return json.load(package.extractfile(f"package/{name}"))


def without_selector(code: str) -> str:
    """Code points as every set is joined by: lower case, without U+FE0F, which some write and some do not."""
    return "-".join(point for point in code.lower().split("-") if point != "fe0f")


def squashed(name: str) -> str:
    """A name's letters and digits: sets differ in case, hyphens and spaces."""
    return re.sub("[^a-z0-9]", "", name.lower())


class IconifySet:
    """One team's vectors, found by code point or, in a set without that table, by name.

    Args:
        icons: the set's `icons.json`.
        codes: its `chars.json`, code points -> icon name, which may be empty; None for no icon.
    """

    def __init__(self, icons: dict, codes: dict[str, str | None]):
        self.icons, self.aliases = icons["icons"], icons.get("aliases", {})
        self.size = icons.get("width", 16), icons.get("height", 16)
        self.codes = {without_selector(code): name for code, name in codes.items()}
        # Streamline numbers the versions of a drawing; the first one is taken.
        self.names = {squashed(re.sub("-1$", "", name)): name for name in [*self.aliases, *self.icons]}

    def names_of(self, code: str) -> list[str]:
        """What this set calls a code point: its name and that name's aliases."""
        name = self.codes.get(code)
        return [name, *(alias for alias, to in self.aliases.items() if to["parent"] == name)] if name else []

    def find(self, code: str, names: Iterable[str]) -> str | None:
        """The icon of a code point, or else of the first name that the set has."""
        if code in self.codes:
            return self.codes[code]
        return next((self.names[n] for n in map(squashed, names) if n in self.names), None)

    def svg(self, name: str) -> str:
        """An icon as a square drawing."""
        alias = self.aliases.get(name, {})
        icon = self.icons[alias.get("parent", name)]
        width, height = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        body = icon["body"]
        if alias.get("hFlip"):
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="512" height="512" viewBox="0 0 {width} {height}">{body}</svg>'
        )
