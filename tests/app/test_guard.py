"""The door of the app: what of a request is let through, by the table of limits."""

from dataclasses import replace
from pathlib import Path

import gradio as gr
import httpx
import pytest
from fastapi import FastAPI
from gradio.utils import get_upload_folder
from gradio_client.utils import extract_validation_message
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.engine.engine import Engine
from app.engine.request import Request as Drawing
from app.hosting.guard import JOIN, UPLOAD, Allowance, Guard
from app.hosting.limits import ALONE, OTHERS, Limits
from app.hosting.plain_blocks import PlainBlocks
from app.hosting.serving import THIS_MACHINE, Serving
from tests.helpers.apart import run_apart
from tests.helpers.stand_in import StandInPipeline

SPACE = {"SYSTEM": "spaces", "SPACE_ID": "you/mdt"}
UPLOADED = str(Path(get_upload_folder()) / "abc" / "a.png")


def door(limits: Limits = OTHERS, **options: object) -> TestClient:
    """A guarded app that tells how many bytes it was sent."""

    async def tell(request: Request) -> JSONResponse:
        return JSONResponse(len(await request.body()))

    async def stumble(request: Request) -> None:
        raise KeyError("no event 999")

    routes = [Route("/stumble", stumble, methods=["POST"]), Route("/{path:path}", tell, methods=["GET", "POST"])]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, limits=limits, **options)])
    return TestClient(app, base_url="http://localhost", client=("203.0.113.7", 1), raise_server_exceptions=False)


@pytest.mark.parametrize("path", ["/monitoring", "/monitoring/summary", "/gradio_api/runs", "/gradio_api/vibe-code/"])
def test_what_nobody_needs_is_closed(path: str) -> None:
    """Catches Gradio's monitor, and its page of runs, on a public instance."""
    assert door().get(path).status_code == 404
    assert door().get("/gradio_api/run/predict").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:7860", "", "[", "127.0.0.1@e"]
)
def test_another_name_of_this_machine_is_refused(host: str) -> None:
    """DNS rebinding: a page of another site asks its own name, which has become this machine. Or it asks this machine
    by its own name: an upload is a form, which browsers send anywhere."""
    client = door(ALONE, hosts=THIS_MACHINE)
    answer = client.get("/config", headers={"host": host})
    assert answer.status_code == 403 and "--root-path" in answer.json()["detail"]
    assert client.post(UPLOAD, headers={"origin": f"https://{host}"}).status_code == 403
    for name in ("localhost:7860", "127.0.0.1", "[::1]:7860"):
        assert client.get("/config", headers={"host": name}).status_code == 200
        assert client.post(UPLOAD, headers={"origin": f"http://{name}"}).status_code == 200


@pytest.mark.parametrize(
    ("file", "status"),
    [
        ({"path": UPLOADED}, 200),
        ({"path": "/etc/passwd"}, 403),
        ({"path": UPLOADED + "/../../../../../etc/passwd"}, 403),
        ({"path": "app.py"}, 403),
        ({"path": "\0"}, 403),
        ({"path": "x" * 5000}, 403),
        ({"path": "https://example.org/a.png"}, 403),
        ({"path": "HTTP://169.254.169.254/latest", "meta": {"_type": "gradio.FileData"}}, 403),
        ({"picture": {"mask": [{"path": "/etc/passwd"}]}}, 403),
    ],
)
def test_a_file_that_was_not_uploaded_is_refused(file: dict, status: int) -> None:
    """Catches a raw request that names a file of the server, or an address inside its network."""
    answer = door().post(JOIN, json={"data": [1, file], "fn_index": 3})
    assert answer.status_code == status
    assert status == 200 or len(answer.content) < 500


def test_on_ones_own_machine_a_file_may_be_an_address() -> None:
    """A language model names pictures so."""
    assert door(ALONE).post(JOIN, json={"path": "https://example.org/a.png"}).status_code == 200


def test_odd_requests_are_told_so() -> None:
    """Catches a traceback in the log, a stack that overflows, and ten megabytes that come back as ten megabytes."""
    deep = b"[" * 50_000 + b"]" * 50_000
    for body in (b"{", deep, b"[" * 100 + b"]" * 100, b"\xff\xfe", b'{"path": "' + b"/x" * 1_000_000 + b'"}'):
        answer = door().post(JOIN, content=body)
        assert answer.status_code in (400, 403) and len(answer.content) < 500
    assert door().post(JOIN, content=b"x" * (5 << 20)).status_code == 413


def test_a_refusal_reaches_those_who_use_gradios_python_client() -> None:
    """Catches "403 Forbidden", of which nobody learns what to do: the client shows the words of a 422 alone."""
    agent = {"user-agent": "gradio_client/2.0; python/3.11"}
    answer = door().post(JOIN, json={"path": "/etc/passwd"}, headers=agent)
    assert "request: Only files that were uploaded can be named" in extract_validation_message(answer)
    answer = door(replace(OTHERS, requests=0)).post(f"{JOIN}", json=[], headers=agent)
    assert "requests a minute are the most" in extract_validation_message(answer)
    assert door().post(UPLOAD, content=b"", headers=agent).status_code == 200


def test_what_gradio_stumbles_over_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Catches `Exception in ASGI application` and a page of traceback."""
    answer = door().post("/stumble", json=[])
    assert (answer.status_code, answer.json()["error"]) == (400, "The request makes no sense to this app.")
    (record,) = [record for record in caplog.records if record.name == "mdt-studio"]
    assert "KeyError: " in record.message and "\n" not in record.message and not record.exc_info


def test_an_event_that_fails_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Catches `{"error": null}`, and a message as long as what it quotes."""

    def fail(text: str) -> str:
        raise (KeyError if text else gr.Error)("x" * 100_000)

    with PlainBlocks() as page:
        gr.api(fail, api_name="fail")
    for text, words in (("a", "This did not work with these values"), ("", "x" * 100)):
        with pytest.raises(gr.Error, match=words) as caught:
            run_apart(page.process_api(0, [text]))
        assert len(caught.value.message) < 1000 and not caught.value.print_exception
    (record,) = caplog.records
    assert "KeyError: " in record.message and len(record.message) < 1000 and not record.exc_info


def test_a_visitor_may_send_so_many_requests_a_minute() -> None:
    """Catches a limit that hits those who only look, or a visitor for another one's requests."""
    client = door(replace(OTHERS, requests=3))
    assert [client.post(JOIN, json=[]).status_code for _ in range(5)] == [200] * 3 + [429] * 2
    assert "3 requests a minute are the most" in client.post(JOIN, json=[]).json()["detail"]
    assert client.get("/").status_code == 200


def test_an_allowance_comes_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches one that is used up for ever, grows without end, or remembers every address there ever was."""
    now = 0.0
    monkeypatch.setattr("app.hosting.guard.monotonic", lambda: now)
    allowance = Allowance(60)
    assert allowance.take("a", 60) and not allowance.take("a", 1) and allowance.take("b", 1)
    now = 1.0
    assert allowance.take("a", 1) and not allowance.take("a", 1)
    now = 1e6
    assert allowance.take("a", 60) and not allowance.take("a", 1)
    monkeypatch.setattr(Allowance, "MOST_CLIENTS", 3)
    for client in "cdefg":
        allowance.take(client, 1)
    assert list(allowance._left) == ["e", "f", "g"]


def test_an_upload_has_few_files_and_megabytes() -> None:
    """900 files in one request were taken. Catches a count that depends on how the bytes come in, and an answer that is
    more than a sentence, for the page shows it as it is."""
    files = [("files", (f"{i}.png", b"x" * 10)) for i in range(5)]
    assert door().post(UPLOAD, files=files[:4]).status_code == 200
    answer = door().post(UPLOAD, files=files)
    assert (answer.status_code, answer.text) == (413, "4 files at once are the most: send fewer.")
    request = httpx.Request("POST", "http://localhost", files=files)
    for size in (1, 7, 100):
        pieces = request.read()
        chunks = (pieces[i : i + size] for i in range(0, len(pieces), size))
        assert door().post(UPLOAD, content=chunks, headers=request.headers).status_code == 413, size
    answer = door(replace(OTHERS, uploads=1)).post(UPLOAD, files=[("files", ("a", b"x" * (1 << 20)))])
    assert answer.status_code == 429


def test_a_page_may_not_be_framed_by_others_but_on_a_space() -> None:
    """Catches a page that another site lays under its own buttons, and a Space that shows nothing."""
    answer = door().get("/")
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    framed = door(framed=True).get("/").headers
    assert not {"x-frame-options", "content-security-policy"} & set(framed)


@pytest.mark.parametrize(
    ("serving", "environment", "limits", "hosts"),
    [
        (Serving("127.0.0.1"), {}, ALONE, THIS_MACHINE),
        (Serving("localhost"), {}, ALONE, THIS_MACHINE),
        (Serving("0.0.0.0"), {}, OTHERS, None),
        (Serving("192.168.0.7"), {}, OTHERS, None),
        (Serving(root_path="/studio"), {}, OTHERS, None),
        (Serving(root_path="https://example.org/studio"), {}, OTHERS, THIS_MACHINE | {"example.org"}),
        (Serving(share=True), {}, OTHERS, None),
        (Serving("0.0.0.0"), SPACE, OTHERS, None),
        (Serving("0.0.0.0", "https://you-mdt.hf.space"), SPACE, OTHERS, None),
    ],
)
def test_the_limits_follow_from_who_comes_in(
    serving: Serving, environment: dict, limits: Limits, hosts: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a public instance with the limits of one's own machine, and one's own that says it is open."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert (serving.limits, serving.hosts) == (limits, hosts)
    told = serving.describe("runs/")
    assert ("Open to everybody" in told and "8 runs of 8,000 steps" in told) == (limits is OTHERS)


def test_a_run_may_have_so_many_steps() -> None:
    """16 pictures x 1,000 steps kept the next visitor waiting for 226 s."""
    engine = Engine({"a": "A"}, device="cpu", load=lambda _: StandInPipeline(seconds=0), longest_run=100)
    long = Drawing("a", (0,) * 5, tuple(range(5)), num_inference_steps=21)
    with pytest.raises(ValueError, match=r"has 105 steps, each picture's counted; 100 are the most here"):
        next(engine.run((long,)))
    assert len(list(engine.run((replace(long, num_inference_steps=20),)))) == 20


def test_the_server_has_its_guard() -> None:
    """Catches limits that nobody is held to."""
    (layer,) = Serving("0.0.0.0").options()["app_kwargs"]["middleware"]
    assert layer.cls is Guard and layer.kwargs["limits"] is OTHERS


def test_what_makes_no_sense_is_not_sent_back() -> None:
    """FastAPI's own answer repeats the values: catches megabytes of answer to megabytes of nonsense."""
    app = FastAPI(**Serving().options()["app_kwargs"])
    app.post("/numbers")(take_numbers)
    answer = TestClient(app, base_url="http://localhost").post("/numbers", json="x" * 100_000)
    assert answer.status_code == 422 and len(answer.content) < 100


def take_numbers(numbers: list[int]) -> int:
    return len(numbers)
