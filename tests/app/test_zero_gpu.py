"""The app on ZeroGPU, with a stand-in for the `spaces` package: a run works in a forked process."""

import os

import pytest

from tests.app.test_app import ROOT, run_python

ON_ZERO_GPU = """
import runpy
try:
    runpy.run_path("app.py")["main"](["--model", "/nowhere"])  # imports all in the order that a Space does
except SystemExit as end:
    assert end.code == 2
from pathlib import Path
import spaces
from app.engine.engine import Engine
from app.engine.request import Request
from app.ui import build, launch
from gradio_client import Client
from tests.helpers.stand_in import StandInPipeline

def load(location):
    if location == "B":
        raise ValueError("this file is cut short")
    return pipe if location == "A" else StandInPipeline({0: "tower"}, seconds=0.05)

pipe = StandInPipeline(seconds=0.05)
engine = Engine({"shapes": "A", "cut": "B", "towers": "C"}, device="cpu", load=load)
demo = build(engine, Path("runs"))

run = engine.run((Request("shapes", (0, 1), (3, 4), num_inference_steps=40),))
assert next(run).x_0[0].size == (32, 32)
run.close()                                        # Stop reaches the worker
assert pipe.log == [], "the run was not in another process"
assert engine.describe("towers").labels == {0: "tower"} and engine._pipe is pipe  # ready for the workers
with engine._lock:                                 # of another visitor, who opens a model
    *_, last = engine.run((Request("towers", (0,), (0,), num_inference_steps=2),))
assert last.images
try:
    list(engine.run((Request("cut", (0,), (0,)),)))
except ValueError as error:
    assert str(error) == "this file is cut short"
else:
    raise AssertionError("a damaged model was drawn with")
assert spaces.asked and 20 < spaces.asked[0] < 60, spaces.asked

_, url, _ = launch(demo, prevent_thread_lock=True, quiet=True)
files = Client(url, verbose=False).predict(2, num_images=2, num_inference_steps=3, api_name="/generate")
assert len(files) == 2
try:
    Client(url, verbose=False).predict(9, api_name="/generate")
except Exception as error:
    assert "out of range" in str(error), error
else:
    raise AssertionError("class 9 was taken")
print("all is well")
demo.close()
"""


@pytest.mark.slow
def test_the_app_runs_on_zero_gpu() -> None:
    """Catches torch before spaces, tensors or locks in what crosses to the worker, a Stop that does not, errors that
    lose their words there, a worker that waits for a lock nobody holds, and a first model that another one drives out.
    """
    path = f"{ROOT / 'tests' / 'zero_gpu'}{os.pathsep}{ROOT}"
    done = run_python("-c", ON_ZERO_GPU, PYTHONPATH=path, SPACES_ZERO_GPU="true")
    assert "all is well" in done.stdout, done.stderr
    assert "app.py: /nowhere: no such file or folder" in done.stderr
