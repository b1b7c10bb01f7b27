"""Strangers who cancel, vanish or ask for much: whoever comes next has the model within a step."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client

from app.engine.engine import Engine
from app.ui import build, launch
from tests.helpers.stand_in import StandInPipeline

STEP = 0.05  # seconds
LONG = {"num_inference_steps": 1000, "sampler": "ddpm"}  # 50 s


@pytest.fixture(scope="module")
def pipe() -> StandInPipeline:
    return StandInPipeline(seconds=STEP)


@pytest.fixture(scope="module")
def engine(pipe: StandInPipeline) -> Engine:
    return Engine({"a": "A", "b": "B"}, device="cpu", load=lambda _: pipe)


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    demo = build(engine, Path("runs"))
    _, url, _ = launch(demo, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield url
    demo.close()


@pytest.fixture
def client(url: str) -> Client:
    return Client(url, verbose=False)


def until(condition, seconds: float = 20) -> None:
    """Wait for something that is about to happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def vanish(url: str, pipe: StandInPipeline) -> None:
    """Ask for a long run over raw HTTP, see it begin, and close the connection."""
    started = pipe.log.count("start")
    event = httpx.post(f"{url}gradio_api/call/v2/generate", json={"class_label": "square"} | LONG).json()
    with httpx.stream("GET", f"{url}gradio_api/call/generate/{event['event_id']}", timeout=20) as answer:
        next(answer.iter_lines())
        until(lambda: pipe.log.count("start") > started)


def test_a_cancelled_job_frees_the_model_within_a_step(client: Client, engine: Engine, pipe: StandInPipeline) -> None:
    """Catches a server that computes on for nobody: the next visitor waited 226 s for two steps."""
    job = client.submit("square", **LONG, api_name="/generate")
    until(lambda: "step 1" in pipe.log)
    job.cancel()
    until(lambda: pipe.log[-1] == "closed", 5)
    assert pipe.log.count("start") == 1 and len(pipe.log) < 100
    assert len(client.predict("square", num_inference_steps=2, api_name="/generate")) == 1
    until(lambda: not engine.turns.busy)


def test_what_an_endpoint_answers_is_documented(client: Client) -> None:
    """Catches "Any", where the API page should say that files come back."""
    for name in ("/generate", "/inpaint"):
        (answer,) = client.view_api(print_info=False, return_format="dict")["named_endpoints"][name]["returns"]
        assert answer["python_type"]["type"] == "list[filepath]", answer


def test_a_client_that_vanishes_frees_the_model(url: str, engine: Engine, pipe: StandInPipeline) -> None:
    """Catches a run that goes on where the client's connection is gone."""
    vanish(url, pipe)
    until(lambda: pipe.log[-1] == "closed", 5)
    until(lambda: not engine.turns.busy)


@pytest.mark.slow
def test_jobs_cancelled_while_they_wait_leave_nothing(client: Client, engine: Engine, url: str) -> None:
    """Catches runs that wait on for nobody: 45 such jobs, and nobody was answered until a restart."""
    with closing(engine.turns.join("a run that goes on")):
        clients = [Client(url, verbose=False) for _ in range(3)]
        jobs = [a.submit("square", **LONG, api_name="/generate") for a in clients for _ in range(5)]
        until(lambda: engine.turns.busy == 16)
        for job in jobs:
            job.cancel()
        until(lambda: engine.turns.busy == 1)
    assert len(client.predict("square", num_inference_steps=2, api_name="/generate")) == 1


@pytest.mark.slow
def test_a_visitor_with_many_runs_is_told_and_others_go_on(client: Client, engine: Engine, url: str) -> None:
    """32 waiting calls of one client were "Queue is full" to everybody. Catches an event that waits behind them."""
    with closing(engine.turns.join("a run that goes on")):
        greedy = Client(url, verbose=False)
        jobs = [greedy.submit("square", num_inference_steps=1, api_name="/generate") for _ in range(40)]
        until(lambda: sum(job.done() for job in jobs) == 32)
        refused = [job for job in jobs if job.done()]
        assert all("8 runs of yours are waiting" in str(job.exception()) for job in refused)
        assert ">b</span>" in str(choose_model(url, "b"))
        waiting = client.submit("square", num_inference_steps=1, api_name="/generate")
        until(lambda: engine.turns.busy == 10)
    assert len(waiting.result(20)) == 1
    assert sum(job.done() for job in jobs) < 36, "a newcomer waited for all of another visitor's runs"
    for job in jobs:
        job.exception(20)


def test_nonsense_is_answered_in_a_sentence_and_leaves_no_traceback(url: str, caplog, capfd) -> None:
    """Catches `{"error": null}`, a traceback in the log, and megabytes of input that come back as an error."""
    values: dict = {"class_label": "x" * 3_000_000}
    for asked in (values, {"seed": {}}, {"num_images": "many"}, {"sampler": ["x"] * 100_000}):
        event = httpx.post(f"{url}gradio_api/call/v2/generate", json=asked).json()["event_id"]
        answer = httpx.get(f"{url}gradio_api/call/generate/{event}", timeout=20).text
        assert "event: error" in answer and len(answer) < 2000 and '"error": null' not in answer
    for data in ([], ["square"]):  # too few
        event = httpx.post(f"{url}gradio_api/call/generate", json={"data": data}).json()["event_id"]
        answer = httpx.get(f"{url}gradio_api/call/generate/{event}", timeout=20).text
        assert "reload the page and try again" in answer and len(answer) < 2000
    for name in ({"a": [1]}, None, [], "x" * 100_000):
        answer = choose_model(url, name)
        assert not answer["success"] and 10 < len(answer["output"]["error"]) < 1000, answer
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err + caplog.text


def choose_model(url: str, name: Any) -> dict:
    """What the page answers a browser that chooses a model."""
    config = httpx.get(f"{url}config").json()
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    chosen = [ids["model"], "change"]
    event = next(e["id"] for e in config["dependencies"] if chosen in e["targets"] and ids["about"] in e["outputs"])
    session = {"session_hash": f"s{time.monotonic_ns()}"}
    asked = {"data": [name], "fn_index": event, **session}
    httpx.post(f"{url}gradio_api/queue/join", json=asked).raise_for_status()
    with httpx.stream("GET", f"{url}gradio_api/queue/data", params=session, timeout=20) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: ") and (message := json.loads(line[6:]))["msg"] == "process_completed":
                return message
    raise AssertionError("no answer")
