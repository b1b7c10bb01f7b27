"""What the Teach tab shows, as HTML: the contact sheet before, the newest samples while it learns."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from app.common.images import jpeg_uri
from app.common.stage import figure, image
from app.teach.dropped import Draft, Picture

MOST_SHOWN = 60  # pictures of a class on the contact sheet
MOST_REFUSED = 20  # files named as refused
SIDE = 96  # pixels of a picture on it


def contact_sheet(draft: Draft, names: Sequence[str | None], redrawn: Mapping[Path, Image.Image]) -> str:
    """Every class with its pictures as they are cropped, each beside what the autoencoder makes of it.

    Args:
        names: of the drop zones.
        redrawn: crop -> what the autoencoder makes of it, of those that were tried so far.
    """
    classes = "".join(
        show_class(own or names[zone] or "Your pictures", pictures, redrawn) for zone, own, pictures in draft.by_name
    )
    note = "Each picture twice: as it is cropped, then as the model shows it at best. "
    note += "What the second has lost will be missing in the drawings, too."
    label = 'role="group" tabindex="0" aria-label="The pictures that were dropped"'
    return f'<p class="note">{note}</p><div class="contact-sheets" {label}>{classes}</div>'


def show_class(name: str, pictures: Sequence[Picture], redrawn: Mapping[Path, Image.Image]) -> str:
    """One class of the sheet."""
    learnt = sum(picture.learnt is not None for picture in pictures)
    refused = [picture for picture in pictures if picture.crop is None]
    count = f"{learnt:,} of {len(pictures):,} pictures are learnt" if learnt < len(pictures) else f"{learnt:,} pictures"
    shown = shown_of(pictures)
    figures = "".join(show_picture(picture, redrawn.get(picture.crop)) for picture in shown)
    hidden = sum(picture.crop is not None for picture in pictures) - len(shown)
    more = f'<p class="note">and {hidden:,} more</p>' if hidden else ""
    heading = f"<h2>{html.escape(name)}</h2><span>{count}</span>"
    return f'<section><header>{heading}</header>{refusals(refused)}<div class="pairs">{figures}</div>{more}</section>'


def shown_of(pictures: Sequence[Picture]) -> list[Picture]:
    """Those that the sheet has room for; of many, duplicates first, for they are to be seen."""
    there = [picture for picture in pictures if picture.crop is not None]
    return sorted(there, key=lambda picture: not picture.twin)[:MOST_SHOWN] if len(there) > MOST_SHOWN else there


def shown_crops(draft: Draft) -> list[Path]:
    """The crops that the sheet shows, of pictures that are learnt."""
    return [crop for _, _, pictures in draft.by_name for picture in shown_of(pictures) if (crop := picture.learnt)]


def refusals(refused: Sequence[Picture]) -> str:
    """Which files are refused, and why."""
    if not refused:
        return ""
    lines = [f"<li><b>{html.escape(p.name)}</b> {html.escape(p.problem)}</li>" for p in refused[:MOST_REFUSED]]
    if len(refused) > MOST_REFUSED:
        lines.append(f"<li>and {len(refused) - MOST_REFUSED:,} more</li>")
    return f'<ul class="refused">{"".join(lines)}</ul>'


def show_picture(picture: Picture, redrawn: Image.Image | None) -> str:
    """A crop, and beside it what the autoencoder makes of it."""
    with Image.open(picture.crop) as crop:
        pair = image(jpeg_uri(crop, SIDE), f"{picture.name}, cropped")
    if picture.twin:
        return figure(pair, f"same as {picture.twin}", **{"class": "twin"})
    pair += image(jpeg_uri(redrawn, SIDE), f"{picture.name}, redrawn") if redrawn else "<i></i>"
    return figure(pair, picture.name)
