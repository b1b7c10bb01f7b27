"""The Training progress tab: samples of one or two runs from step to step, and their curves, live while they train."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app.common.errors import plain_errors
from app.common.images import publish, uri
from app.common.studio import CHECK, GLUE, Studio, Update
from app.engine.models import SHIPPED_RUNS
from app.engine.runs import RunSnapshot, SampleSheet, find_runs, look_at
from app.progress.download import Download
from app.progress.film import film
from app.progress.reels import of_samples
from app.progress.steps import all_steps, checkpoints_of, follow, suggestion
from app.progress.strip_page import StripPage
from app.progress.strips import MOST

NAME = "Training progress"
NOTHING = ""  # the value of the second picker where one run is looked at
LOOK_SECONDS, FRAME_SECONDS = 2.0, 0.7  # between two looks at the folders, and two frames when played
MOST_FRAMES = 60  # of a film
FILM = Path(__file__).with_name("film.js").read_text(encoding="utf-8")
EMPTY = """<div class="stage empty"><div class="welcome"><h3>There is no training run to watch yet</h3>
<p>Train one, on data prepared as the README says: its samples and curves appear here while it learns.</p>
<pre>accelerate launch -m train avatars --output-dir {folder}/my-first-run</pre></div></div>"""


class Positions(gr.Slider):
    """A slider whose range may shrink while the browser still sends a position from before: it counts as the last."""

    is_template = True  # for the browser it is a slider

    def preprocess(self, payload: float) -> float:
        return min(max(payload, self.minimum), self.maximum)


@dataclass(frozen=True)
class Shown:
    """What the page shows; kept by the session."""

    version: int = 0  # of all that was read for it
    steps: tuple[int, ...] = ()  # one per position of the slider
    offered: tuple = ()  # what the pickers of runs hold
    checkpoints: tuple[str, ...] = ()  # what the picker of checkpoints holds
    strip: tuple = ()  # what a strip is offered of


class TrainingProgress:
    """The tab's components, and what happens between them. Methods that return an Update touch only what is in it."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self.folders = (studio.runs, SHIPPED_RUNS)
        self._published: dict[SampleSheet, str] = {}
        self.empty = gr.HTML(EMPTY.format(folder=html.escape(str(studio.runs))), elem_id="training-empty")
        with gr.Column(visible=False, elem_id="training", elem_classes="result") as self.page:
            self._lay_out()
        self.shown = gr.State(Shown())
        self.clock = gr.Timer(LOOK_SECONDS, active=False)  # runs while the tab is open
        self.player = gr.Timer(FRAME_SECONDS, active=False)
        self._wire(studio)

    def _lay_out(self) -> None:
        with gr.Row(elem_classes="reel"):
            self.first = gr.Dropdown([], label="Run", scale=0, min_width=220, elem_id="training-first")
            self.second = gr.Dropdown([], label="Beside it", scale=0, min_width=220, elem_id="training-second")
            self.play = gr.Button("▶ Play", size="sm", scale=0, min_width=96, elem_id="training-play")
            self.position = Positions(
                0, 1, 0, step=1, show_label=False, container=False, buttons=[], min_width=300, elem_id="training-slider"
            )
        self.film = gr.HTML(js_on_load=FILM, elem_id="training-film")
        with gr.Row(elem_classes="checkpoints", equal_height=True):
            with gr.Row(elem_classes="checkpoints", equal_height=True) as self.row:
                self.checkpoint = gr.Dropdown(
                    [], show_label=False, container=False, scale=0, min_width=260, elem_id="training-checkpoint"
                )
                buttons = {"size": "sm", "scale": 0, "min_width": 140}
                self.generate = gr.Button("Open in Generate", elem_id="training-generate", **buttons)
                self.inpaint = gr.Button("Open in Inpaint", elem_id="training-inpaint", **buttons)
                self.note = gr.HTML(elem_id="training-note")
            self.download = Download("training")
        self.strip = StripPage(self.studio)

    def _wire(self, studio: Studio) -> None:
        runs, opening = [self.first, self.second], [self.generate, self.inpaint, self.note]
        chosen = [*runs, self.position, self.checkpoint, self.shown]
        page = [self.page, self.empty, self.film, self.play, self.row, *chosen, *opening, *self.strip.offered]
        studio.tabs.select(self.attend, outputs=self.clock, **GLUE)
        looks = [studio.tabs.select, self.clock.tick, self.first.input, self.second.input]
        gr.on(looks, self.look, chosen, page, trigger_mode="always_last", **GLUE)

        self.position.change(None, self.position, js="(k) => { window.film.show(k); return []; }", **GLUE)
        self.position.change(self.suggest, chosen, [self.checkpoint, *opening], trigger_mode="always_last", **GLUE)
        playing = [self.position, self.player, self.play]
        self.play.click(None, self.position, playing, js="(k) => window.film.toggle(k)", **GLUE)
        self.player.tick(None, self.position, playing, js="(k) => window.film.next(k)", **GLUE)

        self.checkpoint.input(self.explain, [*runs, self.checkpoint], opening, **GLUE)
        goal = [studio.model, studio.tabs, self.clock]
        self.generate.click(self.open_in_generate, [*runs, self.checkpoint], goal, **CHECK)
        self.inpaint.click(self.open_in_inpaint, [*runs, self.checkpoint], goal, **CHECK)
        self.download.wire(self.export, runs)
        self.strip.wire(runs, self._runs)

    # --- the runs --------------------------------------------------------------------------------------------

    def attend(self, event: gr.SelectData) -> gr.Timer:
        """A tab was opened: the folders are looked at while it is this one."""
        return gr.Timer(active=event.value == NAME)

    def look(
        self, first: str | None, second: str | None, position: int, checkpoint: str | None, shown: Shown
    ) -> Update:
        """Show what there is of the chosen runs by now; where nothing has changed, nothing is sent."""
        found = find_runs(self.folders)
        names = [name for name in dict.fromkeys((first, second)) if name]
        if not found and not names:
            return {self.page: gr.update(visible=False), self.empty: gr.update(visible=True)}
        names = names or opening_runs(found, SHIPPED_RUNS)
        runs = [look_at(name, found) for name in names]
        version = hash((tuple(found), *((run.name, run.problem, run.version, run.live) for run in runs)))
        if version == shown.version and first != second:
            return gr.skip()
        steps, before = tuple(all_steps(runs)), shown.steps[position : position + 1]
        position = follow(shown.steps, position, steps)
        choices = [(name, name) for name in found] + [(f"{name} (gone)", name) for name in names if name not in found]
        offered = (names, choices)
        labels = tuple(checkpoint.label for checkpoint in checkpoints_of(runs).values())
        strip = self.strip.offer(runs)
        update = {
            self.page: gr.update(visible=True),
            self.empty: gr.update(visible=False),
            self.film: film(runs, position, self._uri),
            self.position: gr.update(maximum=max(len(steps) - 1, 1), value=position, interactive=len(steps) > 1),
            self.play: gr.update(interactive=len(steps) > 1),
            self.shown: Shown(version, steps, offered, labels, strip),
            self.row: gr.update(visible=bool(labels)),
        }
        # A picker is left alone where it need not change: it may be open, or set by hand.
        if offered != shown.offered or first == second:
            update[self.first] = gr.update(choices=choices, value=names[0])
            update[self.second] = gr.update(choices=[("nothing", NOTHING), *choices], value=[*names, NOTHING][1])
        if strip != shown.strip:
            update |= self.strip.show_offer(strip, shown.strip)
        if labels != shown.checkpoints or steps[position : position + 1] != before:
            update |= self._offer(runs, steps[position] if steps else 0, checkpoint)
        return update

    def _uri(self, sheet: SampleSheet) -> str:
        """Where the browser finds a picture, "" where it was deleted. Each is published once, and again where the cache
        has been emptied."""
        path = self._published.get(sheet)
        if path is None or not Path(path).exists():
            try:
                data = sheet.path.read_bytes()
            except OSError:
                return ""
            self._published[sheet] = path = publish(data, sheet.path.stem, self.film)
        return uri(path)

    def _runs(self, *names: str | None) -> list[RunSnapshot]:
        found = find_runs(self.folders)
        return [look_at(name, found) for name in dict.fromkeys(names) if name]

    def export(self, kind: str, first: str | None, second: str | None) -> str:
        """The samples of the runs over their steps, as a file."""
        runs = self._runs(first, second)
        with plain_errors():
            reel = of_samples(runs, MOST if kind == "png" else MOST_FRAMES)
            return self.download.publish(reel, kind, f"{'-'.join(run.name for run in runs)}-samples")

    # --- checkpoints -----------------------------------------------------------------------------------------

    def suggest(
        self, first: str | None, second: str | None, position: int, checkpoint: str | None, shown: Shown
    ) -> Update:
        """The slider moved: the checkpoint of that step."""
        runs = self._runs(first, second)
        known = 0 <= position < len(shown.steps)
        return self._offer(runs, shown.steps[position], checkpoint) if known else gr.skip()

    def _offer(self, runs: list[RunSnapshot], step: int, before: str | None) -> Update:
        """The checkpoints to choose from. The one chosen `before` stays among them, also when it is gone: the browser
        may be sending it at this moment, and Gradio refuses what is no choice."""
        listed, chosen = checkpoints_of(runs), suggestion(runs, step, before)
        choices = [(checkpoint.label, name) for name, checkpoint in listed.items()]
        if before is not None and before not in listed:
            choices.append((f"{before} · gone", before))
        problem = listed[chosen].problem if chosen in listed else ""
        return {self.checkpoint: gr.update(choices=choices, value=chosen)} | self._explain(problem, chosen in listed)

    def explain(self, first: str | None, second: str | None, chosen: str | None) -> Update:
        """A checkpoint was chosen: whether it can be opened."""
        found = checkpoints_of(self._runs(first, second)).get(chosen)
        return self._explain(found.problem if found else "It is not there any more", found is not None)

    def _explain(self, problem: str, there: bool) -> Update:
        can = gr.update(interactive=there and not problem)
        text = f'<p class="problem">{html.escape(problem)}.</p>' if problem else ""
        return {self.generate: can, self.inpaint: can, self.note: text}

    def open_in_generate(self, first: str | None, second: str | None, chosen: str | None) -> Update:
        """Draw with the chosen checkpoint."""
        return self._open("generate", first, second, chosen)

    def open_in_inpaint(self, first: str | None, second: str | None, chosen: str | None) -> Update:
        """Inpaint with the chosen checkpoint."""
        return self._open("inpaint", first, second, chosen)

    def _open(self, tab: str, first: str | None, second: str | None, chosen: str | None) -> Update:
        found = checkpoints_of(self._runs(first, second)).get(chosen)
        if found is None:
            raise gr.Error("This checkpoint is not there any more.", print_exception=False)
        return self.studio.open_in(tab, found.run, found.step) | {self.clock: gr.Timer(active=False)}


def opening_runs(runs: Mapping[str, Path], shipped: Path) -> list[str]:
    """What the page opens with: a run in training, else the first two that are shipped, else the newest."""
    seen = sorted((look_at(name, runs) for name in runs), key=lambda run: run.last_written, reverse=True)
    live = [run.name for run in seen if run.live]
    return live[:1] or [name for name, path in runs.items() if path.parent == shipped][:2] or [seen[0].name]
