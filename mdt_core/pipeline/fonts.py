"""The letters on pictures that are kept as files.

Class names come from people's own folders, and Pillow's own font has no letter beyond ASCII. DejaVu Sans has Latin,
Greek and Cyrillic ones: matplotlib brings it, and many machines have it. No free font of a few hundred kilobytes has
Chinese, Japanese and Korean: those letters are drawn with the first font of the machine that has them. Where none has,
Hangul and kana are written as they sound, and others as their code in brackets: 猫 as [732B].
"""

import shutil
import subprocess
import unicodedata
from functools import cache, cached_property
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import cast

from PIL import ImageDraw, ImageFont

NAME = "DejaVuSans.ttf"
FALLBACKS = (  # files of Linux, macOS and Windows, which Pillow finds by their names
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "Arial Unicode.ttf"),
    *("msyh.ttc", "msgothic.ttc", "malgun.ttf"),
)
NO_LETTER = "\U0010fffd"  # what every font draws as a letter that it lacks


class Font:
    """DejaVu Sans of one size, and other fonts for the letters that it lacks. Sizes and lengths are in pixels."""

    def __init__(self, size: int):
        self.size = size
        self._letters: dict[str, ImageFont.FreeTypeFont] = {}  # letter -> the font it is drawn with

    def length(self, text: str) -> int:
        """How wide a text is."""
        return round(sum(font.getlength(part) for font, part in self._parts(text)))

    def cut(self, text: str, width: float) -> str:
        """A text no wider than `width`: where it is too long, its beginning and "…"."""
        if self.length(text) <= width:
            return text
        while text and self.length(f"{text}…") > width:
            text = text[:-1]
        return f"{text}…"

    def draw(self, pen: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: str, anchor: str = "la") -> None:
        """Write a line at (x, y), which `anchor` places on the text, as in Pillow: l, m, r, then a, m, s or b."""
        x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * self.length(text)
        ascent, descent = self._base.getmetrics()
        baseline = y + {"a": ascent, "m": (ascent - descent) / 2, "s": 0, "b": -descent}[anchor[1]]
        for font, part in self._parts(text):
            pen.text((x, baseline), part, colour, font, "ls")
            x += font.getlength(part)

    def has(self, letter: str) -> bool:
        """Whether any font of this machine has a letter."""
        return _has(self._font_of(letter), letter)

    def _parts(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """A text cut where its font changes."""
        text = "".join(letter if self.has(letter) else spelled(letter) for letter in text)
        return [(font, "".join(letters)) for font, letters in groupby(text, self._font_of)]

    def _font_of(self, letter: str) -> ImageFont.FreeTypeFont:
        if letter not in self._letters:
            fonts = [self._base] if _has(self._base, letter) else self._fallbacks
            known = next((font for font in fonts if _has(font, letter)), None)
            self._letters[letter] = known or _open(_file_with(letter), self.size) or self._base
        return self._letters[letter]

    @cached_property
    def _base(self) -> ImageFont.FreeTypeFont:
        matplotlib = find_spec("matplotlib")  # found, not imported
        folder = matplotlib.submodule_search_locations[0] if matplotlib else ""
        for path in (Path(folder, "mpl-data", "fonts", "ttf", NAME), NAME):
            if font := _open(path, self.size):
                return font
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(self.size))  # ASCII is better than nothing

    @cached_property
    def _fallbacks(self) -> list[ImageFont.FreeTypeFont]:
        return [font for name in FALLBACKS if (font := _open(name, self.size))]


def spelled(letter: str) -> str:
    """A letter that no font has, in letters that every font has; "" for a mark on the letter before."""
    script, *_, sound = unicodedata.name(letter, "no name").split()
    if script in ("HANGUL", "HIRAGANA", "KATAKANA") and sound.isalpha():
        return sound.lower()
    return "" if unicodedata.category(letter)[0] in "MC" else f"[{ord(letter):X}]"


@cache
def font(size: int) -> Font:
    """The font of all pictures, `size` pixels high."""
    return Font(size)


def _open(path: str | Path, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(path, size)
    except OSError:
        return None


@cache
def _file_with(letter: str) -> str:
    """The font file that fontconfig names for a letter, "" without fontconfig. It may lack the letter all the same."""
    if shutil.which("fc-match") is None:
        return ""
    command = ["fc-match", "--format=%{file}", f":charset={ord(letter):x}"]
    return subprocess.run(command, capture_output=True, text=True).stdout


def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    return bytes(font.getmask(letter)) != bytes(font.getmask(NO_LETTER))
