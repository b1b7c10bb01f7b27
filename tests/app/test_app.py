"""The page as a server: its API in gradio_client's hands, its handlers, the command line, and a ZeroGPU Space."""

import dataclasses
import os
import re
import runpy
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app.common import recipes
from app.common.classes.dropdown import ClassDropdown, class_choices
from app.common.classes.picker import check_classes, for_model, room_for, warn_of_lost
from app.common.controls import draw_curve, steps_of, to_request
from app.common.guidance_curve import guidance_curve
from app.engine.engine import Engine
from app.engine.request import Request
from app.engine.settings import MAX_SEED
from app.ui import build, launch, launch_options, model_choices
from mdt_core.guidance import Guidance
from tests.helpers.forked import python
from tests.helpers.stand_in import StandInPipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine({"shapes": "A", "others": "B"}, device="cpu", load=lambda _: StandInPipeline())


@pytest.fixture(scope="module")
def demo(engine: Engine) -> gr.Blocks:
    return build(engine, Path("runs"))


@pytest.fixture(scope="module")
def url(demo: gr.Blocks) -> Iterator[str]:
    _, url, _ = launch(demo, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield url
    demo.close()


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("results"))


def test_generate_over_the_api(client: Client, engine: Engine) -> None:
    """Catches paths that a client cannot fetch, lossy files, seeds that do not count up, a missing recipe."""
    files = client.predict("golden retriever", seed=7, num_images=3, num_inference_steps=4, api_name="/generate")
    assert [Path(file).name for file in files] == [f"golden-retriever-{seed}.png" for seed in (7, 8, 9)]
    pictures = [Image.open(file) for file in files]
    assert {(picture.format, picture.size) for picture in pictures} == {("PNG", (32, 32))}
    request, notes = recipes.to_request(recipes.read(files[2]), engine.describe("shapes"))
    assert (request.seeds, request.class_labels, request.num_inference_steps, notes) == ((9,), (2,), 4, [])
    *_, last = engine.run((request,))
    assert last.images[0].tobytes() == pictures[2].convert("RGB").tobytes()


def test_the_api_takes_indices_names_and_no_class(client: Client) -> None:
    """Catches an API that takes 0 or None for something else."""
    calls = [(0, "circle"), ("1", "square"), ("square", "square"), (None, "no-class"), ("", "no-class")]
    calls += [("circle:3,square:2", "circle-60-square-40")]
    for given, name in calls:
        (file,) = client.predict(given, num_inference_steps=1, api_name="/generate")
        assert Path(file).name == f"{name}-0.png"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"class_label": 4}, "Class 4 is out of range: this model has classes 0 to 3"),
        ({"class_label": -1}, "Class -1 is out of range"),
        ({"class_label": True}, "by its number or its name, not by True"),
        ({"class_label": 1.7}, "not by 1.7"),
        ({"class_label": [3]}, "by its number or its name"),
        ({"class_label": "circle:1,square:-1"}, "The weight of class 'square' must be a number from 0 to 1000, not -1"),
        ({"model": ["shapes"]}, "named by a text|no model"),
        ({"sampler": ["dpm++"]}, "no sampler"),
        ({"num_inference_steps": 0}, "steps for dpm.. must be a whole number from 1 to 250, not 0"),
        ({"seed": -1}, f"The seed must be a whole number from 0 to {MAX_SEED}, not -1"),
        ({"seed": 0.5}, "The seed must be a whole number"),
        ({"num_images": 17}, "The number of images must be a whole number from 1 to 16, not 17"),
        ({"num_images": 0}, "not 0"),
        ({"sampler": "euler"}, "no sampler 'euler': choose one of"),
        ({"guidance_scale": 99.0}, "guidance scale must be a number from 1 to 10, not 99"),
        ({"model": "nobody"}, "no model 'nobody': choose one of shapes, others"),
    ],
)
def test_a_wrong_call_is_told_what_was_wrong(client: Client, call: dict, words: str) -> None:
    """Catches a bare "Error", and a value that is silently bent."""
    with pytest.raises(AppError, match=words):
        client.predict(**{"class_label": 0} | call, api_name="/generate")


@pytest.mark.parametrize(
    ("name", "sent", "words"),
    [
        ("Seed", -5, "Seed: enter a number from 0 to 2147483647, not -5."),
        ("Seed", "abc", "Seed: enter a number from 0 to 2147483647, not &#x27;abc&#x27;."),
        ("Steps", None, "Steps: enter a number from 1 to 250."),
        ("Guidance scale", 99, "Guidance scale: enter a number from 1 to 10, not 99."),
        ("Sampler", "euler", "Sampler: choose from the list, not &#x27;euler&#x27;."),
    ],
)
def test_a_value_that_no_field_takes_is_told_by_its_name(
    demo: gr.Blocks, url: str, capfd: pytest.CaptureFixture, name: str, sent: object, words: str
) -> None:
    """Catches "Value -5 is less than minimum value 0.", which could be any field's, and a traceback in the log."""

    def is_meant(block: gr.blocks.Block) -> bool:
        return getattr(block, "label", "") == name

    for told in (True, False):  # a button was pressed, or a field is being filled in
        asked = (fn for fn in demo.fns.values() if any(map(is_meant, fn.inputs)))
        event = next(fn for fn in asked if (fn.targets[0][1] == "click") == told)
        data = [sent if is_meant(block) else None if block.stateful else block.value for block in event.inputs]
        call = {"data": data, "fn_index": event._id, "session_hash": f"{name}-{sent}"}
        answer = httpx.post(f"{url}gradio_api/run/predict", json=call).json()
        assert (answer["error"], answer["visible"]) == (words, told)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_two_people_at_once_get_their_own_pictures(url: str, tmp_path: Path) -> None:
    """Their runs queue on one model: catches results that are shared or mixed up."""
    people = [Client(url, verbose=False, download_files=tmp_path / str(i)) for i in range(2)]
    jobs = [
        client.submit(i, seed=10 * i, num_images=2, num_inference_steps=30, api_name="/generate")
        for i, client in enumerate(people)
    ]
    for i, job in enumerate(jobs):
        found = [recipes.read(file) for file in job.result(timeout=60)]
        assert [(recipe["class_label"], recipe["seed"]) for recipe in found] == [(i, 10 * i), (i, 10 * i + 1)]


def test_only_generate_and_inpaint_are_offered_to_clients(client: Client) -> None:
    """Catches the page's glue in the API's listing."""
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/generate", "/inpaint"]


def test_the_page_is_ready_again_however_a_run_ends(engine: Engine) -> None:
    """Catches a Stop button that stays after an error: Gradio calls `then` after an error no more, only `failure`."""
    events = build(engine, Path("runs")).config["dependencies"]
    runs = [event["cancels"][0] for event in events if event["cancels"]]
    ends = {(event["trigger_after"], event["trigger_only_on_failure"], tuple(event["outputs"])) for event in events}
    assert len(runs) == 5  # Generate, Inpaint, Compare, Walk, and the strip of Training progress
    for run in runs:
        after_error = [outputs for after, failed, outputs in ends if after == run and failed]
        assert len(after_error) == 1 and (run, False, after_error[0]) in ends


def test_no_two_listeners_keep_each_other_going(engine: Engine) -> None:
    """Catches an event with two listeners that Gradio holds back: each starts the other again, for ever."""
    held_back = Counter(
        tuple(target)
        for event in build(engine, Path("runs")).config["dependencies"]
        if event["trigger_mode"] == "always_last" and event["backend_fn"] and event["trigger_after"] is None
        for target in event["targets"]
    )
    assert held_back and max(held_back.values()) == 1


def test_no_component_waits_for_an_event(engine: Engine) -> None:
    """Catches an event whose every step makes Gradio walk through the whole page: as much work as the drawing."""
    events = build(engine, Path("runs")).config["dependencies"]
    assert [
        event for event in events if event["outputs"] and event["targets"] and event["show_progress_on"] != []
    ] == []


def test_the_page_loads_nothing_from_elsewhere(url: str) -> None:
    """Catches fonts and scripts from other hosts: the app has to work without a network."""
    page = urllib.request.urlopen(url).read().decode()
    theme = urllib.request.urlopen(f"{url}theme.css").read().decode()
    assert "MDT Studio" in page
    for host in ("googleapis", "gstatic", "cdnjs"):
        assert f'src="https://{host}' not in page
        assert host not in theme


def test_files_of_the_server_stay_there(url: str, tmp_path: Path) -> None:
    """Catches a recipe handler that opens whatever path a client names."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{url}gradio_api/file={ROOT / 'pyproject.toml'}")
    with pytest.raises(Exception, match=r"."):
        Client(url, verbose=False).predict(handle_file(str(secret)), "shapes", api_name="/load")


def test_images_are_shared_out_among_the_classes() -> None:
    """Catches a class without an image, and seeds that run over."""
    request = to_request("m", [2, None, 0], 4, MAX_SEED)
    assert request.class_labels == (2, 2, None, 0)
    assert request.seeds == (MAX_SEED, 0, 1, 2)
    assert to_request("m", [], 2, 5).class_labels == (None, None)
    assert to_request("m", [0, 1, 2], 1, 5).class_labels == (0, 1, 2)
    with pytest.raises(ValueError, match="seed must be"):
        to_request("m", [0], 1, None)
    with pytest.raises(ValueError, match=r"number of images must be a whole number from 1 to 16, not 4\.5"):
        to_request("m", [0], 4.5, 0)


def test_the_number_of_images_is_not_below_that_of_the_classes() -> None:
    """Catches a slider that says 2 where three pictures come, and one that jumps where there is room."""
    assert room_for([0, 1, 2], 2) == room_for([0, 1, 2], None) == 3
    assert room_for([0, 1, 2], 3) == room_for([], 1) == gr.skip()


def test_a_thousand_classes_are_found_by_name_and_index(engine: Engine) -> None:
    """Catches two classes of one name that cannot be told apart."""
    choices = class_choices(engine.describe("shapes").labels)
    assert choices[0] == ("anything (no class)", -1)
    assert choices[3] == ("golden retriever · 2", 2)


def test_a_class_on_its_way_while_another_model_is_opened_ends_in_no_traceback() -> None:
    """Gradio holds a value against the newest choices. Catches its error in the log, and anything but a number."""
    choices = class_choices({0: "cat"})
    one, several = ClassDropdown(choices), ClassDropdown(choices, multiselect=True)
    assert one.preprocess(999) == 999 and several.preprocess([999, -1]) == [999, None]
    assert one.preprocess(one.postprocess(None)) is None, "no class is a class to choose"
    assert several.preprocess(several.postprocess([None, 0])) == [None, 0]
    for picker, wrong in [(one, [1]), (one, "cat"), (one, True), (one, None), (several, 1), (several, [[1]])]:
        with pytest.raises(gr.Error, match="Choose a class from the list"):
            picker.preprocess(wrong)


def test_a_class_that_another_model_lacks_is_told(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a picture of another class than the one that was picked, and nobody who says so."""
    told: list[str] = []
    monkeypatch.setattr(gr, "Warning", told.append)
    info = engine.describe("shapes")
    other = dataclasses.replace(info, name="other", labels={0: "square", 7: "<cat>", 9: "dog"})
    warn_of_lost(info, [0, None], before=other)
    assert told == []
    warn_of_lost(info, [7, 0, 9], before=other)
    assert told == ["shapes has no &lt;cat&gt;, dog: pick another class."]


def test_another_model_keeps_the_classes_that_it_has(engine: Engine) -> None:
    """Catches a class that keeps its number and becomes another one, and one that the model has not."""
    info = engine.describe("shapes")
    other = dataclasses.replace(info, name="other", labels={0: "square", 1: "golden retriever", 7: "cat"})
    assert for_model(info, [1, 7, None], before=other)["value"] == [None, 2]
    assert for_model(other, [2, 1], before=info)["value"] == [1, 0]
    assert for_model(info, [7], before=other)["value"] == [0]
    with pytest.raises(ValueError, match="still those of other: wait until shapes is open"):
        check_classes(other, info)
    with pytest.raises(ValueError, match="shapes was replaced and has other classes now: load the page again"):
        check_classes(dataclasses.replace(info, labels={0: "square", 1: "circle"}), info)


def test_a_model_that_is_gone_stays_the_chosen_one(engine: Engine) -> None:
    """Catches a dropdown whose value is none of its choices: Gradio refuses every event that sends it."""
    assert model_choices(engine, "shapes")["choices"] == ["shapes", "others"]
    assert model_choices(engine, "run @ 7")["choices"] == ["shapes", "others", ("run @ 7 · gone", "run @ 7")]


def test_ddpm_offers_a_thousand_steps() -> None:
    """Catches a slider that stays at 250."""
    assert (steps_of("ddpm")["maximum"], steps_of("ddpm")["value"]) == (1000, 250)
    assert steps_of("dpm++")["maximum"] == 250


def heights_of(curve: str) -> list[float]:
    """Where the line of a guidance curve stands at each step, in pixels from the top."""
    line = re.search(r'<g class="weights">\s*<path d="M([^"]*)"', curve)[1]
    return [float(point.split()[1]) for point in line.split("L")]


def dots(curve: str, kind: str) -> int:
    """How many steps are marked as "guided" or "skipped"."""
    return curve.partition(f'<g class="{kind}">')[2].partition("</g>")[0].count("<use")


def test_the_guidance_curve_marks_what_is_skipped() -> None:
    """Catches a curve drawn the wrong way round, and one that says nothing of the saving."""
    curve = guidance_curve("dpm++", 25, Guidance())
    heights = heights_of(curve)
    assert len(heights) == 25
    assert heights == sorted(heights, reverse=True)
    assert dots(curve, "skipped") == 12
    assert "12 of 25 steps need no guidance" in curve
    assert "no guidance" not in guidance_curve("dpm++", 25, Guidance(guidance_power=0.01))
    assert dots(guidance_curve("ddpm", 1000, Guidance(1.0)), "guided") == 0
    assert guidance_curve("dpm++", 1, Guidance(10.0, 8.0))
    part = guidance_curve("dpm++", 10, Guidance(2.0, 0.0, guidance_low=250, guidance_high=750), skip=False)
    assert (dots(part, "guided"), dots(part, "skipped")) == (5, 5)


def test_the_guidance_curve_of_no_class_is_flat() -> None:
    """Catches a curve, and passes said to be saved, of a run that has one pass a step and guides nothing."""
    flat = draw_curve(Request("a", (None, None), (0, 1)))
    assert "no class: not guided" in flat and "no guidance" not in flat and set(heights_of(flat)) == {90.0}
    curves = [draw_curve(Request("a", labels, (0, 1))) for labels in ((None, 2), (2, 2))]
    curves += [draw_curve(Request("a", (None,), (0,), guidance_kind="mask")), guidance_curve("dpm++", 25, Guidance())]
    assert all(heights_of(curve) == heights_of(curves[0]) for curve in curves)


def test_the_launch_is_given_the_pages_files() -> None:
    """Catches a style sheet that is left out of the launch."""
    options = launch_options()
    assert ".stage" in options["css"]
    assert "ctrlKey" in options["js"]
    assert options["ssr_mode"] is False
    assert isinstance(options["theme"], gr.themes.Base)


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("--model /nowhere/nothing", "/nowhere/nothing: no such file or folder"),
        ("--model ~nobody-of-this-name/x", "~nobody-of-this-name/x: no such file or folder"),
        ("--port 99999", "a port is a number from 1 to 65535, not '99999'"),
        ("--port 0", "a port is a number from 1 to 65535, not '0'"),
        ("--bogus", "unrecognized arguments: --bogus"),
    ],
)
def test_a_wrong_command_ends_with_one_line(
    call: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Catches a traceback on a mistyped path, user, port or flag, and a usage text in front of the reason."""
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7860")  # the program sets it, too
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "app.py"))["main"](call.split())
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("app.py: ") and words in said and said.count("\n") == 1


def test_threads_that_wait_leave_the_cores_to_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a step that takes ten times as long beside a busy browser, because its threads spin while they wait."""
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7860")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that it is as before in the end
    monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "app.py"))["main"](["--model", "/nowhere"])
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.forked
def test_a_port_in_the_environment_that_is_none_ends_with_one_line() -> None:
    """Catches a traceback of Gradio's, which reads the variable by itself when it is imported."""
    words = "a port is a number from 1 to 65535, not 'x'"
    assert words in said_at_start("--runs", "nowhere", GRADIO_SERVER_PORT="x")
    assert "/nowhere: " in said_at_start("--port", "7861", "--model", "/nowhere", GRADIO_SERVER_PORT="x")


def said_at_start(*arguments: str, **environment: str) -> str:
    """The one line with which app.py ends, status 2."""
    done = python("app.py", *arguments, **environment)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("app.py: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr
