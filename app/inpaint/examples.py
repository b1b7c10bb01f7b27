"""Example pictures with masks, as the Inpaint tab offers them: NAME.png next to NAME-mask.png in assets/examples."""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "assets" / "examples"


def find_examples(folder: Path = FOLDER) -> list[tuple[Path, Path]]:
    """(picture, mask) files, by name."""
    pairs = [(path, path.with_name(f"{path.stem}-mask.png")) for path in sorted(folder.glob("*.png"))]
    return [(picture, mask) for picture, mask in pairs if mask.is_file()]
