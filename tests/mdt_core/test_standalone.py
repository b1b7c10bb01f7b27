"""One file of the code of a class: what is copied, what stays behind, and what cannot be copied, which is said."""

import sys
import textwrap

import pytest

from mdt_core.weights import standalone
from mdt_core.weights.standalone import Standalone


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Writes the modules of a package `house` in place of ours."""
    monkeypatch.setattr(standalone, "PACKAGE", "house")
    monkeypatch.setattr(standalone, "LEFT_OUT", "house.weights")
    monkeypatch.syspath_prepend(tmp_path)

    def write(**modules: str) -> None:
        (tmp_path / "house").mkdir()
        for name, text in {"__init__": "", **modules}.items():
            (tmp_path / "house" / f"{name}.py").write_text(textwrap.dedent(text))

    yield write
    sys.modules.pop("house", None)


def run(code: str) -> dict:
    names = {"__name__": "elsewhere"}
    exec(code, names)
    return names


def test_what_is_used_comes_along_and_nothing_else(house):
    house(
        low='''
            """Low."""
            import math
            import os

            # The number.
            PI = math.pi
            UNUSED = os.sep

            def unused(): return UNUSED
        ''',
        high='''
            """High."""
            from house.low import PI, unused
            from house.weights import find

            class Circle:
                """See `house.low.PI`."""

                # --- opening ---

                @classmethod
                def from_file(cls): return find(cls)

                # --- size ---

                def length(self) -> float:
                    return 2 * PI  # σ, of two bytes

            def other(): return unused()

            Circle.__module__ = "house"
        ''',
    )
    code = Standalone("house.high", "Circle").code('"""Header."""')
    assert run(code)["Circle"]().length() == pytest.approx(6.2832, abs=1e-4)
    assert run(code)["Circle"].__module__ == "elsewhere"
    for kept in ('"""Header."""', "# The number.", "See `PI`.", "# --- size ---", '"""Low."""', "# --- high --"):
        assert kept in code
    for left in ("house", "unused", "UNUSED", "import os", "from_file", "# --- opening ---", "other"):
        assert left not in code


NET = '"""Model."""\nclass Net: ...\n'
APART = {("house.model", "Net"): ("decimal", "Decimal")}


def test_what_stands_apart_is_replaced_in_annotations(house):
    house(
        model=NET,
        use="""
            from house.model import Net
            class User:
                def run(self, é: Net, net: Net | None) -> Net: ...
        """,
    )
    code = Standalone("house.use", "User", APART).code("")
    assert "def run(self, é: Decimal, net: Decimal | None) -> Decimal: ..." in code
    assert "from decimal import Decimal" in code and "class Net" not in code


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class User:\n    def is_net(self, x): return isinstance(x, Net)", "line 4: Net is in a file of its own"),
        ("for i in range(3): print(i)\nclass User: ...", "line 3: a statement that cannot be exported"),
        (
            "def helper(): ...\nclass User: x = helper, get",
            "helper is one thing in house.use and another in house.other",
        ),
        ("from house.other import get as g\nclass User: x = g", "house.other.get must be imported under its own name"),
        ("import house.other\nclass User: x = house.other.get", "must be imported under its own name"),
    ],
)
def test_what_cannot_be_copied_is_said(house, text, reason):
    other = '"""Other."""\ndef helper(): ...\ndef get(): return helper()\n'
    house(model=NET, other=other, use=f"from house.model import Net\nfrom house.other import get\n{text}\n")
    with pytest.raises(ValueError, match=reason):
        Standalone("house.use", "User", APART)
