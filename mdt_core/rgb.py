"""PIL pictures of any mode -> RGB."""

from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB: transparency on white, 16 bits -> 8, other colour spaces converted."""
    if image.mode.startswith("I") or image.mode == "F":  # PIL's own conversion would clip at 255
        fraction = image.mode == "F" and image.getextrema()[1] <= 1  # 0..1, else 16-bit numbers
        image = image.convert("F").point(lambda value: value * (255 if fraction else 1 / 257) + 0.5).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
