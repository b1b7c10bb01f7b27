"""Frames -> the bytes of an animation: GIF and WebP by Pillow, MP4 by PyAV where that is installed.

PyAV (`pip install av`, see requirements-extra.txt) brings FFmpeg's libraries along and needs no program on the machine.
"""

import io
from collections.abc import Sequence
from importlib.util import find_spec

from PIL import Image

FRAME_MS, LAST_MS = 700, 2100  # how long a frame is seen, and the last one
FRAMES_PER_SECOND = 10  # of a video, which repeats a frame as long as it is seen
NEEDS_AV = "MP4 needs PyAV: pip install av."

Frames = Sequence[Image.Image]  # RGB, all of one size


def formats() -> list[str]:
    """What this machine can write; "png" is one picture of everything."""
    return ["gif", "webp", *(["mp4"] if find_spec("av") else []), "png"]


def animate(frames: Frames, kind: str) -> bytes:
    """An animation of at least one frame. ValueError where this machine cannot write its format."""
    if kind not in formats() or kind == "png":
        raise ValueError(NEEDS_AV if kind == "mp4" else f"There is no animation format {kind!r}: choose gif or webp.")
    if kind == "mp4":
        return mp4(frames)
    if kind == "gif":  # colours of each frame's own: early samples share none with late ones
        return endless([frame.quantize(256, Image.Quantize.MEDIANCUT) for frame in frames], "GIF")
    return endless(frames, "WEBP", quality=90)


def endless(frames: Frames, kind: str, **options: int) -> bytes:
    """An animation by Pillow that begins again at its end."""
    buffer = io.BytesIO()
    first, *others = frames
    first.save(buffer, kind, save_all=True, append_images=others, duration=durations(frames), loop=0, **options)
    return buffer.getvalue()


def mp4(frames: Frames) -> bytes:
    """H.264 in 4:2:0, which every browser plays: sides are even, and a frame that is seen longer is repeated."""
    import av

    width, height = (side + side % 2 for side in frames[0].size)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image, milliseconds in zip(frames, durations(frames), strict=True):
            even = Image.new("RGB", (width, height), image.getpixel((0, 0)))
            even.paste(image)
            for _ in range(milliseconds * FRAMES_PER_SECOND // 1000):
                file.mux(stream.encode(av.VideoFrame.from_image(even)))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def durations(frames: Frames) -> list[int]:
    """How long each frame is seen, in milliseconds."""
    return [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
