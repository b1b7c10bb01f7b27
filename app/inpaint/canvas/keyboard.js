// The keyboard, only while the canvas has the focus.

const HOLD = 220; // milliseconds: a key held for longer is no tap
const SHORTCUTS = {
  b: () => chooseTool("brush"),
  e: () => chooseTool("eraser"),
  r: () => chooseTool("rectangle"),
  l: () => chooseTool("lasso"),
  x: () => invert(),
  0: () => fit(),
  "[": () => setBrush(brush / 1.2),
  "]": () => setBrush(brush * 1.2),
  "?": () => toggleHelp(),
  delete: () => clear(),
  backspace: () => clear(),
  escape: () => {
    dropStroke();
    if (!help.hidden) toggleHelp();
  },
};

canvas.addEventListener("keydown", (event) => {
  if (event.key === "Tab") waitToPeek();
  else if (event.key === " ") spaceHeld = true;
  else {
    const command = commandOf(event);
    if (!command) return;
    command();
  }
  event.preventDefault();
  event.stopPropagation();
});

canvas.addEventListener("keyup", (event) => {
  if (event.key === " ") spaceHeld = false;
  if (event.key !== "Tab") return;
  if (tabTimer !== null) {
    stopWaiting();
    focusNext(event.shiftKey);
  }
  peeking = false;
  redraw();
});

canvas.addEventListener("blur", () => {
  stopWaiting();
  peeking = spaceHeld = false;
  redraw();
});

// What a key does, if anything.
function commandOf(event) {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) return { z: () => goTo(event.shiftKey ? +1 : -1), y: () => goTo(+1) }[key];
  if (event.altKey || !picture) return undefined;
  if (key.startsWith("arrow")) return () => moveRectangle(event);
  if (key === "enter" && draft) return () => maskDraft();
  return SHORTCUTS[key];
}

// --- a rectangle by the arrow keys ---

function moveRectangle(event) {
  const by = 0.02 * mask.shortSide;
  const [dx, dy] = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
  if (draft?.kind !== "rectangle") {
    const [width, height] = mask.size;
    draft = { kind: "rectangle", points: [[0.375 * width, 0.375 * height], [0.625 * width, 0.625 * height]], erase: false };
  } else {
    const moved = event.shiftKey ? [draft.points[1]] : draft.points;
    for (const point of moved) [point[0], point[1]] = [point[0] + dx, point[1] + dy];
  }
  redraw();
}

// --- Tab: held it shows the picture without the mask, tapped it leaves the canvas ---

let tabTimer = null;

function waitToPeek() {
  if (tabTimer !== null || peeking) return;
  tabTimer = setTimeout(() => {
    tabTimer = null;
    peeking = true;
    redraw();
  }, HOLD);
}

function stopWaiting() {
  clearTimeout(tabTimer);
  tabTimer = null;
}

function focusNext(backwards) {
  const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")];
  const fields = all.filter((node) => node.tabIndex >= 0 && !node.disabled && node.offsetParent);
  fields[fields.indexOf(canvas) + (backwards ? -1 : 1)]?.focus();
}
