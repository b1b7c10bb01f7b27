"""The programs of train/ tell what was wrong with a call in one line."""

import importlib
import sys

import pytest

CALLS = {
    "autoencoder": "nowhere --out made",
    "avatars": "made --size many",
    "convergence": "report nowhere --baseline dit --out made",
    "decoder": "--model nowhere --data nowhere --latents nowhere --out made",
    "emoji": "",
    "evaluate": "--floor",
    "export": "nowhere --out made",
    "inpainting": "--model nowhere --methods magic",
    "inpainting ": "--model nowhere --device abacus",
    "neighbours ": "--samples nowhere --training nowhere --out made.png --device abacus",
    "evaluate ": "--model nowhere --device abacus --grid made.png",
    "convergence ": "evaluate nowhere --device abacus",
    "latents": "nowhere --vae nowhere --out made",
    "neighbours": "--samples nowhere --training nowhere --out made.png --rows 0",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_ends_with_one_line_and_status_2(name, tmp_path, monkeypatch, capsys):
    """Catches a traceback, a usage text in front of the reason, and a status that says that the work failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *CALLS[name].split()])
    name = name.strip()
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"train.{name}").main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith(f"python -m train.{name}: ") and said.count("\n") == 1
