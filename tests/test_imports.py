"""Data runs one way, and every room knows only those below it: the house's plan, held by reading its import lines.

Would catch: a sampler that learns of the model class, a core that needs the browser, a training tool that the app
pulls in, and any circle. Imports inside functions count like any other.
"""

import ast
from pathlib import Path

import pytest

from tests.helpers.forked import python

ROOT = Path(__file__).parents[1]
ROOMS = ("mdt_core", "train", "app")
SOURCES = [*sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")), ROOT / "app.py"]

# Of mdt_core: names of modules, or of packages with all that they hold.
KNOW_NOTHING_OF_OURS = ("presets", "masking", "diffusion", "autoencoder", "lora", "runs")
KNOW_NO_MODEL = (
    *("guidance", "samplers", "inpainting", "losses"),
    *("pipeline.canvas", "pipeline.decoding", "pipeline.labels", "pipeline.outputs", "pipeline.settings"),
    *("acceleration.batch_invariance", "training.optimizers"),
)
MODEL = (
    *("layers", "transformer", "weights", "acceleration.cached_conditioning", "acceleration.evaluation"),
    *("pipeline.parts", "pipeline.pipeline", "pipeline.open"),
)
FLOORS = (  # of mdt_core, the lowest first
    ("kernels", "masking"),
    ("layers",),
    ("transformer",),
    ("weights", "acceleration"),
    ("pipeline",),
    ("training", "bench", "__main__"),
)
TABS = ("generate", "inpaint", "compare", "walk", "progress", "teach")  # packages of app, side by side
BELOW_TABS = ("common", "engine")


def module_name(path: Path) -> str:
    """mdt_core/presets.py -> mdt_core.presets; app.py -> app.py, for the package app is another thing."""
    if path == ROOT / "app.py":
        return "app.py"
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """Every module that a source imports, as absolute names, wherever in the file the import stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}  # a name may be a module
    return names


MODULES = {module_name(path): path for path in SOURCES}
IMPORTS = {name: imported(path.read_text("utf-8"), name, path.stem == "__init__") for name, path in MODULES.items()}
OURS = {name: {other for other in imports if other in MODULES} - {name} for name, imports in IMPORTS.items()}


def importers(package: str) -> set[str]:
    """The modules of ours that import a package."""
    return {name for name, imports in IMPORTS.items() if any(f"{i}.".startswith(f"{package}.") for i in imports)}


def rooms(name: str) -> set[str]:
    return {other.split(".")[0] for other in OURS[name]}


def test_the_reader_sees_every_kind_of_import():
    source = "import a.b\nfrom . import c\nfrom .d import e\ndef f():\n    from g import h\n"
    assert imported(source, "house.room") >= {"a.b", "house.c", "house.d", "g", "g.h"}
    assert imported("from . import c", "house", is_package=True) >= {"house.c"}


def within(package: str, names: tuple[str, ...]) -> set[str]:
    """The modules that these names of a package stand for. Each must stand for one at least."""
    found = {name: {m for m in MODULES if f"{m}.".startswith(f"{package}.{name}.")} for name in names}
    assert all(found.values()), [name for name, modules in found.items() if not modules]
    return set().union(*found.values())


def test_the_lowest_rooms_import_nothing_of_ours():
    low = within("mdt_core", KNOW_NOTHING_OF_OURS)
    assert {name: OURS[name] for name in low if OURS[name]} == {}


def test_callables_and_tensors_only():
    model = within("mdt_core", MODEL)
    assert {name: OURS[name] & model for name in within("mdt_core", KNOW_NO_MODEL) if OURS[name] & model} == {}


def test_each_floor_knows_only_those_below():
    """layers <- transformer <- weights <- pipeline, and what is beside them. `__init__` lends names when asked."""
    floor = {module: n for n, names in enumerate(FLOORS) for module in within("mdt_core", names)}
    climbing = {name: {o for o in OURS[name] if floor.get(o, -1) > n} for name, n in floor.items()}
    assert {name: others for name, others in climbing.items() if others} == {}


def test_the_tabs_stand_side_by_side_on_what_they_share():
    tabs = {tab: within("app", (tab,)) for tab in TABS}
    of = {name: tab for tab, names in tabs.items() for name in names}
    across = {name: {o for o in OURS[name] if of.get(o, tab) != tab} for name, tab in of.items()}
    assert {name: others for name, others in across.items() if others} == {}
    climbing = {name: OURS[name] & of.keys() for name in within("app", BELOW_TABS)}
    assert {name: others for name, others in climbing.items() if others} == {}


def test_the_core_knows_neither_data_set_nor_browser():
    strangers = {name: rooms(name) - {"mdt_core"} for name in MODULES if name.startswith("mdt_core")}
    assert {name: rooms for name, rooms in strangers.items() if rooms} == {}


def test_training_and_app_build_on_the_core_and_never_on_each_other():
    """But for one door: the tab Teach starts and watches what `python -m train.teach` does."""
    assert [name for name in MODULES if name.startswith("train") and "app" in rooms(name)] == []
    beyond = within("train", ("teach",)) | {"train"}
    for name in [name for name in MODULES if name.startswith("app") and "train" in rooms(name)]:
        assert name.startswith("app.teach")
        assert {other for other in OURS[name] if other.startswith("train")} <= beyond


def test_gradio_only_in_the_app():
    assert {name for name in importers("gradio") if name.split(".")[0] != "app"} == set()
    assert {name for name in importers("gradio") if name.startswith("app.engine")} == set()  # it knows no browser


def test_accelerate_only_in_training():
    allowed = within("mdt_core", ("training",))
    assert {name for name in importers("accelerate") if name.split(".")[0] != "train"} <= allowed


def test_no_circles():
    """Peel off the modules whose imports are all peeled off; what cannot be peeled goes round in a circle."""
    left = dict(OURS)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


@pytest.mark.forked
def test_sampling_does_not_load_training():
    """diffusers imports accelerate by itself where it is installed; that ours does not is what we can promise."""
    show = "print(*(m for m in sys.modules if m.startswith(('mdt_core', 'gradio'))))"
    code = f"import sys, mdt_core; mdt_core.MDTPipeline; {show}"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "mdt_core.pipeline.pipeline" in loaded
    assert loaded & importers("accelerate") == set()
    assert {name for name in loaded if name.startswith("gradio")} == set()
