// The painter's elements: tools above, the canvas, and below what is masked. What a button does stands in painter.js.

const TOOLS = { brush: "Brush", eraser: "Eraser", rectangle: "Rectangle", lasso: "Lasso" };
const KEYS = [
  ["B E R L", "brush, eraser, rectangle, lasso"],
  ["[ ]", "smaller, larger brush"],
  ["Ctrl Z", "undo; with Shift, or Ctrl Y: redo"],
  ["X", "invert: mask what is not masked"],
  ["Delete", "clear the mask"],
  ["Wheel", "zoom; 0: the whole picture"],
  ["Space", "hold, and drag to move the picture"],
  ["Tab", "hold to see the picture without the mask"],
  ["Arrows", "move a rectangle, with Shift: its size; Enter masks it, Escape drops it"],
  ["Alt", "hold: rectangle and lasso take away"],
  ["Ctrl Enter", "inpaint"],
];

const button = (text, action, attributes = {}) => make("button", { type: "button", onclick: action, ...attributes }, text);

// --- tools ---

const toolButtons = Object.fromEntries(
  Object.entries(TOOLS).map(([name, text]) => [
    name,
    button(text, () => chooseTool(name), { title: `${text} (${text[0]})`, "aria-pressed": name === "brush" }),
  ]),
);
const sizeSlider = make("input", {
  type: "range", min: 0, max: 100, value: 50, "aria-label": "Brush size", title: "Brush size ( [ and ] )",
  oninput: () => setBrush(SMALLEST_BRUSH * (largestBrush() / SMALLEST_BRUSH) ** (sizeSlider.value / 100)),
});
const sizeText = make("output", { class: "size" });
const undoButton = button("↶", () => goTo(-1), { title: "Undo (Ctrl Z)", "aria-label": "Undo", disabled: true });
const redoButton = button("↷", () => goTo(+1), { title: "Redo (Ctrl Shift Z)", "aria-label": "Redo", disabled: true });
const helpButton = button("?", () => toggleHelp(), { title: "Keys", "aria-label": "Keys", "aria-expanded": false });
const tools = make("div", { class: "tools", role: "toolbar", "aria-label": "Mask tools" },
  make("span", { class: "group", role: "group", "aria-label": "Tool" }, ...Object.values(toolButtons)),
  make("label", { class: "group" }, make("span", {}, "Size"), sizeSlider, sizeText),
  make("span", { class: "group" }, undoButton, redoButton),
  make("span", { class: "group" },
    button("Invert", () => invert(), { title: "Mask what is not masked (X)" }),
    button("Clear", () => clear(), { title: "Mask nothing (Delete)" }),
    button("Fit", () => fit(), { title: "The whole picture (0)" }), helpButton));

// --- the canvas, and what lies over it ---

const canvas = make("canvas", { tabindex: 0, role: "application", "aria-label": "Mask over the picture" });
const help = make("dl", { class: "keys", hidden: true }, ...KEYS.flatMap(([keys, what]) => [make("dt", {}, keys), make("dd", {}, what)]));
const empty = make("p", { class: "empty" }, "Open, paste or drop a picture, or take an example.");
const stage = make("div", { class: "canvas-box" }, canvas, help, empty);

// --- below ---

const maskedText = make("output", { class: "masked", "aria-live": "polite" });
const overlayButton = button("What will be repainted", () => toggleOverlay(), { "aria-pressed": false });
const legend = make("span", { class: "legend", hidden: true });
const numbers = Object.fromEntries(
  ["left", "top", "width", "height"].map((name) => [name, make("input", { type: "number", min: 0, "aria-label": `Rectangle: ${name} in pixels` })]),
);
const byNumbers = make("details", { class: "numbers" },
  make("summary", {}, "Rectangle by numbers"),
  ...Object.entries(numbers).map(([name, input]) => make("label", {}, `${name} `, input)),
  button("Mask it", () => maskNumbers(false)), button("Unmask it", () => maskNumbers(true)),
);

element.replaceChildren(tools, stage, make("div", { class: "below" }, maskedText, overlayButton, byNumbers, legend));

// --- what they show ---

const overlayShown = () => overlayButton.getAttribute("aria-pressed") === "true";

function showTool(tool) {
  for (const [name, node] of Object.entries(toolButtons)) node.setAttribute("aria-pressed", name === tool);
}

// The brush's diameter in the mask's pixels, and in those of the picture itself.
function showBrush(diameter, inPicture) {
  sizeSlider.value = (100 * Math.log(diameter / SMALLEST_BRUSH)) / Math.log(largestBrush() / SMALLEST_BRUSH);
  sizeText.textContent = `${inPicture} px`;
  sizeSlider.setAttribute("aria-valuetext", `${inPicture} pixels`);
}

function showSteps({ at, steps, step }) {
  const percent = 100 * step.share;
  const text = percent === 0 ? "Nothing masked yet" : percent < 1 ? "Under 1% masked" : `${Math.round(percent)}% masked`;
  if (maskedText.textContent !== text) maskedText.textContent = text; // a screen reader says it again otherwise
  undoButton.disabled = at <= 0;
  redoButton.disabled = at >= steps.length - 1;
}

function toggleHelp() {
  help.hidden = !help.hidden;
  helpButton.setAttribute("aria-expanded", !help.hidden);
}
