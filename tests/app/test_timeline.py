"""Animations and grids to keep: what is on a frame, and what each format holds."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from app.engine.request import Request
from app.progress import animation
from app.progress.animation import FRAME_MS, LAST_MS, animate, formats
from app.progress.strip import at_rest, plan
from app.progress.timeline import Timeline, cut_out, samples_timeline, strip_timeline
from tests.helpers.run_folders import see, write_two_runs

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def plain(colour: tuple[int, int, int], side: int = 40) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def share(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    """How many pixels are of a colour, nearly."""
    return int((np.abs(np.asarray(picture.convert("RGB"), int) - colour).max(-1) < 24).sum())


@pytest.fixture
def timeline() -> Timeline:
    """Two runs whose steps differ, one with a checkpoint that could not be read."""
    first = {10: plain(RED), 20: "it is damaged", 30: plain(GREEN)}
    return Timeline(("one", "the second"), (first, {20: plain(BLUE)}), "dog · seed 7", ("3 steps",))


def test_a_frame_shows_every_run_at_its_step(timeline: Timeline) -> None:
    """Catches samples on a frame before they were drawn, frames of several sizes, and frames alike but for nothing."""
    frames = list(timeline.frames())
    assert len({frame.size for frame in frames}) == 1
    shares = [[share(frame, colour) for colour in (RED, BLUE, GREEN)] for frame in frames]
    assert shares == [[1600, 0, 0], [1600, 1600, 0], [0, 1600, 1600]]
    alone = [next(Timeline(("one",), ({step: plain(RED, 120)},)).frames()) for step in (10, 20)]
    assert alone[0].tobytes() != alone[1].tobytes()  # the step is written on it


def test_a_grid_shows_everything_once(timeline: Timeline) -> None:
    """Catches a run or step that is left out, and a reason that is not told in its place."""
    across = timeline.grid()
    assert [share(across, colour) for colour in (RED, BLUE, GREEN)] == [1600] * 3
    assert across.width > across.height
    down = Timeline(timeline.runs, timeline.cells, down=True).grid()
    assert down.height > 3 * 40
    silent = Timeline(
        timeline.runs, ({**timeline.cells[0], 20: ""}, timeline.cells[1]), timeline.title, timeline.footer
    )
    assert silent.grid().size == across.size
    assert silent.grid().tobytes() != across.tobytes()


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_holds_every_frame(timeline: Timeline, kind: str) -> None:
    """Catches an animation of one frame, too fast to see, that stops at its end, or in another run's colours."""
    frames = list(timeline.frames())
    opened = Image.open(io.BytesIO(animate(frames, kind)))
    assert (opened.format.lower(), opened.n_frames, opened.size) == (kind, 3, frames[0].size)
    assert opened.info["loop"] == 0
    seen = [(frame.copy(), frame.info["duration"]) for frame in ImageSequence.Iterator(opened)]
    shares = [[share(frame, colour) > 1200 for colour in (RED, BLUE, GREEN)] for frame, _ in seen]
    assert shares == [[True, False, False], [True, True, False], [False, True, True]]
    assert [milliseconds for _, milliseconds in seen] == [FRAME_MS, FRAME_MS, LAST_MS]


def test_a_video_holds_every_frame(timeline: Timeline) -> None:
    """Catches a file that no player opens: sides that are odd, other codecs or colours, and one that ends early."""
    av = pytest.importorskip("av")
    frames = [frame.crop((0, 0, 101, 77)) for frame in timeline.frames()]
    with av.open(io.BytesIO(animate(frames, "mp4"))) as file:
        video = file.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height) == (102, 78)
        assert float(video.duration * video.time_base) == pytest.approx((2 * FRAME_MS + LAST_MS) / 1000)
        pictures = [frame.to_image() for frame in file.decode(video)]
    shares = [[share(pictures[k], colour) > 300 for colour in (RED, BLUE, GREEN)] for k in (0, 10, 30)]
    assert shares == [[True, False, False], [True, True, False], [False, True, True]]


def test_mp4_is_offered_where_it_can_be_had(timeline: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a choice that ends in an ImportError."""
    monkeypatch.setattr(animation, "find_spec", lambda name: None)
    assert formats() == ["gif", "webp", "png"]
    with pytest.raises(ValueError, match="MP4 needs PyAV: pip install av"):
        animate(list(timeline.frames()), "mp4")
    with pytest.raises(ValueError, match="no animation format 'avi'"):
        animate(list(timeline.frames()), "avi")
    monkeypatch.setattr(animation, "find_spec", lambda name: object())
    assert formats() == ["gif", "webp", "mp4", "png"]


# --- of runs ---------------------------------------------------------------------------------------------------------


def test_samples_are_cut_out_under_their_class(tmp_path: Path) -> None:
    """Catches another class's samples above a name, a deleted picture that ends it all, and too many steps."""
    runs = write_two_runs(tmp_path)
    grid = np.array([[RED, GREEN, BLUE], [BLUE, RED, GREEN]], np.uint8).repeat(16, 0).repeat(16, 1)
    for step in (10, 100, 1000):
        Image.fromarray(grid).save(tmp_path / "mdt" / "samples" / f"step_{step:08d}.png")
    timeline = samples_timeline([see(runs, "mdt"), see(runs, "dit")], most=60)
    assert timeline.steps == [10, 50, 100, 700, 1000]
    tiles = timeline.cells[0][10]
    assert tiles.width == 3 * 64 + 2 * 4
    middles = [tiles.getpixel((32 + 68 * column, 32 + 68 * row)) for row in range(2) for column in range(3)]
    assert middles == [RED, GREEN, BLUE, BLUE, RED, GREEN]
    run = see(runs, "mdt")
    (tmp_path / "mdt" / "samples" / "step_00000010.png").unlink()
    assert samples_timeline([run], most=60).steps == [100, 1000]
    assert samples_timeline([see(runs, "dit")], most=2).steps == [50, 700]
    run.sheets.clear()
    with pytest.raises(ValueError, match="no samples yet"):
        samples_timeline([run], most=60)


def test_a_strip_becomes_a_reel(tmp_path: Path) -> None:
    """Catches an animation of thumbnails, a strip that says nothing of its settings, and an error after a day."""
    strip = plan([see(write_two_runs(tmp_path))], Request("", (1,), (7,), num_inference_steps=3))
    training = "drawn during training, with a seed and settings of its own: step "
    timeline = strip_timeline(strip)
    assert (timeline.steps, timeline.footer[-1]) == ([10, 100, 1000], f"{training}10, 100, 1,000")
    plain(RED).save(tmp_path / "red.png")
    strip.pictures["mdt", 1000] = str(tmp_path / "red.png")
    timeline = strip_timeline(strip)
    assert (timeline.size, timeline.title, timeline.footer) == (
        (256, 256),
        "dog · seed 7",
        ("dpm++, 3 steps · scale 3.8, power 4", f"{training}10, 100"),
    )
    strip.samples.clear()
    timeline = strip_timeline(strip)
    assert timeline.footer == ("dpm++, 3 steps · scale 3.8, power 4",)
    assert share(timeline.grid(), RED) == 256 * 256
    (tmp_path / "red.png").unlink()
    with pytest.raises(ValueError, match="deleted meanwhile"):
        strip_timeline(strip)
    strip.pictures.clear()
    with pytest.raises(ValueError, match="no picture yet"):
        strip_timeline(strip)


def test_a_sample_is_cut_out_of_its_sheet(tmp_path: Path) -> None:
    """Catches another class's or seed's picture on a strip that is kept."""
    grid = np.array([[RED, GREEN, BLUE], [BLUE, RED, GREEN]], np.uint8).repeat(16, 0).repeat(16, 1)
    write_two_runs(tmp_path)
    Image.fromarray(grid).save(tmp_path / "mdt" / "samples" / "step_00000100.png")
    picture = cut_out(at_rest([see(tmp_path)], 1).samples["mdt", 100])
    assert (picture.size, share(picture, GREEN)) == ((16, 16), 256)
