// The Training progress tab goes from step to step in the browser: view.py says what changes at each.
const page = element.closest("#training");
let at = 0; // the step shown
const kept = new Map(); // path -> picture: fetched once, and shown without a flicker

const steps = () => JSON.parse(element.querySelector(".runs-view")?.dataset.steps ?? "[]");
const slider = () => page.querySelector("#training-slider input[type=range]");
const url = (path) => new URL(path, document.baseURI).href;

// In a strip the picture of the step shown, or the nearest before it, is marked.
const mark = () => {
  for (const cells of page.querySelectorAll(".checkpoint-strip .cells")) {
    const before = [...cells.children].filter((figure) => figure.dataset.step <= at && figure.textContent);
    for (const figure of cells.children) figure.classList.toggle("at", figure === before.at(-1));
  }
};

const show = (k) => {
  const { step = 0, label = "", x = 0, sheets = [], words = {} } = steps()[k] ?? {};
  // A strip may have a checkpoint between two steps of the slider: it stays the one shown.
  if (at < step || at >= (steps()[k + 1]?.step ?? Infinity)) at = step;
  mark();
  slider()?.setAttribute("aria-valuetext", label);
  page.style.setProperty("--step", JSON.stringify(label));
  page.style.setProperty("--x", x);
  for (const [run, path] of sheets.entries())
    page.style.setProperty(`--sheet-${run}`, path ? `url("${url(path)}")` : "none");
  for (const [name, text] of Object.entries(words))
    for (const place of page.querySelectorAll(`[data-words="${name}"]`)) place.innerHTML = text;
};

// In a strip: to the picture that was clicked, or from one to the next by the arrow keys.
const goTo = (step) => {
  at = step;
  mark();
  const input = slider();
  input.value = Math.max(steps().findLastIndex((other) => other.step <= step), 0);
  input.dispatchEvent(new Event("input", { bubbles: true }));
};
const stepsOf = (strip) => [...(strip?.querySelector(".cells")?.children ?? [])].map((cell) => Number(cell.dataset.step));
page.onclick = (event) => {
  const figure = event.target.closest(".checkpoint-strip figure");
  if (figure) goTo(Number(figure.dataset.step));
};
page.onkeydown = (event) => {
  const strip = stepsOf(event.target.closest(".checkpoint-strip"));
  const last = strip.length - 1;
  const k = strip.findLastIndex((step) => step <= at);
  const keys = { ArrowLeft: k - 1, ArrowRight: k + 1, Home: 0, End: last };
  if (last < 0 || !(event.key in keys)) return;
  event.preventDefault();
  goTo(strip[Math.min(Math.max(keys[event.key], 0), last)]);
};

const fetchAll = () => {
  const paths = new Set(steps().flatMap((step) => step.sheets).filter(Boolean));
  for (const path of kept.keys()) if (!paths.has(path)) kept.delete(path);
  for (const path of paths) if (!kept.has(path)) kept.set(path, Object.assign(new Image(), { src: url(path) }));
};

// For the tab's events. Each returns the slider's new place, whether the clock runs, and the button's text.
const state = (k, playing) => [
  k,
  { active: playing, __type__: "update" },
  { value: playing ? "❚❚ Pause" : "▶ Play", __type__: "update" },
];
let playing = false;

window.trainingProgress = {
  show,
  mark,
  toggle: (k) => {
    playing = !playing;
    return state(playing && k >= steps().length - 1 ? 0 : k, playing);
  },
  next: (k) => {
    const last = Math.max(steps().length - 1, 0); // a run that disappears leaves no steps
    playing = k + 1 < last;
    return state(Math.min(k + 1, last), playing);
  },
};

const start = () => {
  show(Number(element.querySelector(".runs-view")?.dataset.position));
  fetchAll();
};
watch("value", start);
start();
