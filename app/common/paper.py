"""Colours and letters of pictures that are kept as files: sheets, boards and films.

Class names come from people's folders, and Pillow's own font has no letter beyond ASCII. Gradio, which is always here,
brings a free one for the browser that has Latin, Greek and Cyrillic ones (a name in another script is drawn in boxes).
"""

from functools import cache
from pathlib import Path

import gradio
from PIL import ImageFont

INK, FAINT, PAPER, EMPTY = "#1e293b", "#64748b", "#ffffff", "#f1f5f9"
PLEX = Path(gradio.__file__).parent / "templates/frontend/static/fonts/IBMPlexSans/IBMPlexSans-Regular.woff2"


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures, `size` pixels high."""
    try:
        return ImageFont.truetype(PLEX, size)
    except OSError:  # another Gradio, or a Pillow that cannot read this format: ASCII is better than nothing
        return ImageFont.load_default(size)
