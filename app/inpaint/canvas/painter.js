// The mask painter: a picture, the mask over it, and the tools to paint it, on one canvas.
//
// Gradio runs one script as the body of a function, with `element`, `props`, `trigger`, `watch` and `upload` in reach:
// the files that `Painter` names in painter.py, one after the other, this one the last. Here is what they share: what is
// painted, and the commands that the toolbar, the pointer and the keyboard give.

const SMALLEST_BRUSH = 2; // pixels of the mask
const mask = new Mask();
const view = new View(canvas, mask);
let picture = null; // an image, or null: nothing is open
let overlay = null; // an image, drawn in place of the mask while it is asked for
let look = null; // { picture, mask }: the quick result where it was masked, and that mask; what is painted since is not in it
let tool = "brush";
let brush = 40; // diameter in the mask's pixels
let draft = null; // a rectangle or lasso that is not yet in the mask: { kind, points, erase }

const largestBrush = () => Math.max(2 * SMALLEST_BRUSH, mask.shortSide / 2);
const perPixel = () => (received.size?.[0] ?? mask.canvas.width) / (mask.canvas.width || 1); // of the mask, the picture's

function setBrush(diameter) {
  brush = Math.min(largestBrush(), Math.max(SMALLEST_BRUSH, diameter));
  showBrush(brush, Math.round(brush * perPixel()));
  redraw();
}

function chooseTool(name) {
  dropStroke();
  tool = name;
  showTool(tool);
}

// --- the mask ---

// What was painted is a step that can be undone, and goes to the server.
function commit() {
  record();
  send();
}

function record() {
  mask.record();
  showSteps(mask);
  redraw();
}

// Undo, or redo; of what is being painted, nothing stays.
function goTo(by) {
  if (stroke) return dropStroke();
  if (!mask.go(by)) return;
  draft = null;
  showSteps(mask);
  send();
  redraw();
}

function invert() {
  if (!picture) return;
  mask.invert();
  commit();
}

function clear() {
  if (!picture) return;
  mask.clear();
  commit();
}

const corners = ([left, top], [right, bottom]) => [[left, top], [right, top], [right, bottom], [left, bottom]];

function maskNumbers(erase) {
  if (!picture) return;
  const [left, top, width, height] = Object.values(numbers).map((input) => Number(input.value) / perPixel());
  if (!(width > 0 && height > 0)) return;
  mask.fill(corners([left, top], [left + width, top + height]), erase);
  commit();
}

// --- rectangle and lasso, which are seen before they are masked ---

const outlineOf = ({ kind, points }) => (kind === "rectangle" ? corners(...points) : points);

function maskDraft() {
  mask.fill(outlineOf(draft), draft.erase);
  draft = null;
  commit();
}

// --- what is seen ---

function fit() {
  if (!picture || !canvas.clientWidth) return;
  view.fit();
  redraw();
}

function toggleOverlay() {
  overlayButton.setAttribute("aria-pressed", !overlayShown());
  legend.hidden = !overlayShown();
  overlay = null;
  if (picture) {
    publish();
    trigger("overlay");
  }
  redraw();
}

// --- begin ---

new ResizeObserver(() => (view.fitted ? fit() : redraw())).observe(canvas); // also when its tab is opened
watch("value", load);
load();
