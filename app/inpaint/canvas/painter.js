// The mask painter: a picture, the mask over it, and the tools to paint it, on one canvas.
//
// Gradio runs this file as the body of a function, with `element`, `props`, `trigger`, `watch` and `upload` in reach.
// In by `props.value`:  { picture, mask, size, turn, overlay, legend, look, version }; picture, mask and overlay are
// files, `look` a data URI: the quick result, shown inside the mask that it was drawn for.
// Out by `props.value`: the same, with `mask` as it is painted now, its `version`, and `wants_overlay`.
// `turn` grows whenever the server sends a picture or a mask: what has been shown already is not loaded again, and an
// overlay or a look is taken only while the mask is of the version that it was drawn for.
//
// The mask is a canvas of the size of `picture` (a copy of at most 2048 pixels), opaque where to repaint. Undo keeps one
// bit a pixel for every step. What is painted is sent as soon as a stroke ends; `window.mdtPainter.settled()` waits
// until the server has it, so that no run starts with an older mask.

const PAINT = "rgb(20, 184, 166)"; // the page's teal
const VEIL = 0.6; // how much of the picture the paint hides
const MOST_STEPS = 60; // that can be undone
const HOLD = 220; // milliseconds: a key held for longer is no tap
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

// --- the page's elements -------------------------------------------------------------------------------------------

const button = (text, action, attributes = {}) => make("button", { type: "button", onclick: action, ...attributes }, text);

const canvas = make("canvas", { tabindex: 0, role: "application", "aria-label": "Mask over the picture" });
const toolButtons = Object.fromEntries(
  Object.entries(TOOLS).map(([name, text]) => [
    name,
    button(text, () => chooseTool(name), { title: `${text} (${text[0]})`, "aria-pressed": name === "brush" }),
  ]),
);
const sizeSlider = make("input", {
  type: "range", min: 0, max: 100, value: 50, "aria-label": "Brush size", title: "Brush size ( [ and ] )",
  oninput: () => setBrush(sliderToBrush(Number(sizeSlider.value))),
});
const sizeText = make("output", { class: "size" });
const undoButton = button("↶", () => step(-1), { title: "Undo (Ctrl Z)", "aria-label": "Undo", disabled: true });
const redoButton = button("↷", () => step(+1), { title: "Redo (Ctrl Shift Z)", "aria-label": "Redo", disabled: true });
const overlayButton = button("What will be repainted", () => toggleOverlay(), { "aria-pressed": false });
const help = make("dl", { class: "keys", hidden: true }, ...KEYS.flatMap(([keys, what]) => [make("dt", {}, keys), make("dd", {}, what)]));
const helpButton = button("?", () => toggleHelp(), { title: "Keys", "aria-label": "Keys", "aria-expanded": false });
const live = make("output", { class: "masked", "aria-live": "polite" });
const legend = make("span", { class: "legend", hidden: true });
const numbers = Object.fromEntries(
  ["left", "top", "width", "height"].map((name) => [name, make("input", { type: "number", min: 0, "aria-label": `Rectangle: ${name} in pixels` })]),
);
const byNumbers = make("details", { class: "numbers" },
  make("summary", {}, "Rectangle by numbers"),
  ...Object.entries(numbers).map(([name, input]) => make("label", {}, `${name} `, input)),
  button("Mask it", () => maskNumbers(false)), button("Unmask it", () => maskNumbers(true)),
);
const empty = make("p", { class: "empty" }, "Open, paste or drop a picture, or take an example.");
const stage = make("div", { class: "canvas-box" }, canvas, help, empty);

element.replaceChildren(
  make("div", { class: "tools", role: "toolbar", "aria-label": "Mask tools" },
    make("span", { class: "group", role: "group", "aria-label": "Tool" }, ...Object.values(toolButtons)),
    make("label", { class: "group" }, make("span", {}, "Size"), sizeSlider, sizeText),
    make("span", { class: "group" }, undoButton, redoButton),
    make("span", { class: "group" },
      button("Invert", () => invert(), { title: "Mask what is not masked (X)" }),
      button("Clear", () => clear(), { title: "Mask nothing (Delete)" }),
      button("Fit", () => fit(), { title: "The whole picture (0)" }), helpButton)),
  stage,
  make("div", { class: "below" }, live, overlayButton, byNumbers, legend),
);

// --- what is painted on --------------------------------------------------------------------------------------------

const pen = canvas.getContext("2d");
const mask = document.createElement("canvas");
const maskPen = mask.getContext("2d", { willReadFrequently: true });
let picture = null; // an image, or null: nothing is open
let overlay = null; // an image, drawn in place of the mask while it is asked for
let look = null; // { picture, mask }: the quick result where it was masked, and that mask; what is painted since is not in it
let tool = "brush";
let brush = 40; // diameter in the mask's pixels
let view = { scale: 1, x: 0, y: 0 }; // pixels of the mask -> pixels of the page
let fitted = true; // the view shows the whole picture, whatever the size of its place
let peeking = false; // the mask is hidden while a key is held
let spaceHeld = false;
let pointer = null; // where the mouse is, for the ring
let draft = null; // a rectangle or lasso that is not yet in the mask: { kind, points, erase }
let history = []; // packed masks, the oldest first
let now = -1; // which of them is the mask
let shown = { turn: 0 }; // the value that brought picture and mask
let dirty = false; // a frame is asked for

function sliderToBrush(position) {
  const most = Math.max(4, Math.min(mask.width, mask.height) / 2);
  return 2 * (most / 2) ** (position / 100);
}

function setBrush(diameter) {
  const most = Math.max(4, Math.min(mask.width, mask.height) / 2);
  brush = Math.min(most, Math.max(2, diameter));
  sizeSlider.value = (100 * Math.log(brush / 2)) / Math.log(most / 2);
  const inPicture = Math.round((brush * (shown.size?.[0] ?? mask.width)) / (mask.width || 1));
  sizeText.textContent = `${inPicture} px`;
  sizeSlider.setAttribute("aria-valuetext", `${inPicture} pixels`);
  redraw();
}

function chooseTool(name) {
  tool = name;
  draft = null;
  for (const [each, node] of Object.entries(toolButtons)) node.setAttribute("aria-pressed", each === name);
  redraw();
}

// --- the mask: one bit a pixel -------------------------------------------------------------------------------------

function pack() {
  const { data } = maskPen.getImageData(0, 0, mask.width, mask.height);
  const bits = new Uint8Array(Math.ceil(data.length / 32));
  let count = 0;
  for (let i = 3, pixel = 0; i < data.length; i += 4, pixel++)
    if (data[i] > 127) {
      bits[pixel >> 3] |= 1 << (pixel & 7);
      count++;
    }
  return { bits, share: count / (data.length / 4 || 1) };
}

function pixelsOf(bits, on, off) {
  const pixels = new ImageData(mask.width, mask.height);
  const words = new Uint32Array(pixels.data.buffer); // little-endian: ABGR
  for (let pixel = 0; pixel < words.length; pixel++) words[pixel] = bits[pixel >> 3] & (1 << (pixel & 7)) ? on : off;
  return pixels;
}

const TEAL = 0xffa6b814;

function paint(packed) {
  maskPen.putImageData(pixelsOf(packed.bits, TEAL, 0), 0, 0);
  tell(packed.share);
  undoButton.disabled = now <= 0;
  redoButton.disabled = now >= history.length - 1;
  redraw();
}

function tell(share) {
  const percent = 100 * share;
  const text = percent === 0 ? "Nothing masked yet" : percent < 1 ? "Under 1% masked" : `${Math.round(percent)}% masked`;
  if (live.textContent !== text) live.textContent = text;
}

// A step that can be undone: the mask as it is now.
function record() {
  history = [...history.slice(0, now + 1), pack()].slice(-MOST_STEPS);
  now = history.length - 1;
  paint(history[now]); // edges without half-masked pixels: what is seen is what is sent
}

function commit() {
  record();
  send();
}

function step(by) {
  if (!history[now + by]) return;
  draft = null;
  now += by;
  paint(history[now]);
  send();
}

function invert() {
  if (!picture) return;
  maskPen.globalCompositeOperation = "source-out";
  maskPen.fillStyle = PAINT;
  maskPen.fillRect(0, 0, mask.width, mask.height);
  commit();
}

function clear() {
  if (!picture) return;
  maskPen.clearRect(0, 0, mask.width, mask.height);
  commit();
}

function fill(points, erase) {
  maskPen.globalCompositeOperation = erase ? "destination-out" : "source-over";
  maskPen.fillStyle = PAINT;
  maskPen.beginPath();
  for (const [x, y] of points) maskPen.lineTo(x, y);
  maskPen.closePath();
  maskPen.fill();
}

const corners = ([left, top], [right, bottom]) => [[left, top], [right, top], [right, bottom], [left, bottom]];

function maskNumbers(erase) {
  if (!picture) return;
  const scale = mask.width / (shown.size?.[0] ?? mask.width);
  const [left, top, width, height] = ["left", "top", "width", "height"].map((name) => Number(numbers[name].value) * scale);
  if (!(width > 0 && height > 0)) return;
  fill(corners([left, top], [left + width, top + height]), erase);
  commit();
}

// --- to the server -------------------------------------------------------------------------------------------------

let sending = Promise.resolve();
let latest = 0; // version of the mask that is seen
let sent = { mask: null, version: 0 }; // what the server has of it

// Whatever has come from the server meanwhile, the mask that is seen is the one that goes back.
function publish() {
  props.value = { ...shown, ...sent, wants_overlay: overlayShown() };
}

function send() {
  const mine = ++latest;
  const { bits, share } = history[now];
  overlay = null; // of a mask that is no more
  const paper = document.createElement("canvas");
  paper.width = mask.width;
  paper.height = mask.height;
  paper.getContext("2d").putImageData(pixelsOf(bits, 0xffffffff, 0xff000000), 0, 0);
  sending = sending.then(async () => {
    if (mine !== latest) return; // overtaken by a newer mask
    let file = null;
    if (share > 0) {
      const blob = await new Promise((done) => paper.toBlob(done, "image/png"));
      const { path, url } = await upload(new File([blob], "mask.png", { type: "image/png" }));
      file = { path, url, orig_name: "mask.png", mime_type: "image/png", meta: { _type: "gradio.FileData" } };
    }
    if (mine !== latest) return;
    sent = { mask: file, version: mine };
    publish();
    trigger("stroke");
    if (overlayShown()) trigger("overlay");
  }).catch(() => {}); // a refused upload, of which the page told
}

async function quiet() {
  let last;
  do {
    last = [loading, sending];
    await Promise.all(last);
  } while (last[0] !== loading || last[1] !== sending);
}

window.mdtPainter = {
  // The value, once the server has the mask that is seen. Fails where it does not take it.
  settled: async () => {
    await quiet();
    if (sent.version !== latest) {
      send(); // once more
      await quiet();
    }
    if (sent.version !== latest) throw new Error("the mask did not reach the server");
    return props.value;
  },
};

// --- from the server -----------------------------------------------------------------------------------------------

function loadImage(file) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error(`${file.orig_name ?? "a picture"} could not be loaded`));
    image.src = file.url;
  });
}

let loading = Promise.resolve();

function load() {
  loading = loading.then(loadValue).catch((error) => live.replaceChildren(String(error.message)));
}

async function loadValue() {
  const value = props.value;
  empty.hidden = Boolean(value?.picture);
  if (!value?.picture) {
    picture = null;
    return redraw();
  }
  if (value.turn > shown.turn) await loadPicture(value);
  else if (value.turn === shown.turn && value.version === latest) {
    if ("look" in value) await loadLook(value);
    else {
      const drawn = value.overlay ? await loadImage(value.overlay) : null;
      if (value.version === latest) overlay = drawn;
      legend.textContent = value.legend ?? "";
    }
  }
  publish();
  redraw();
}

async function loadLook(value) {
  const drawn = value.look && (await loadImage({ url: value.look }));
  if (value.version !== latest) return;
  look = drawn && { picture: copyOf(drawn, history[now]), mask: copyOf(mask, history[now]) };
}

// A copy of an image, of the mask's size, and of it what is masked.
function copyOf(image, packed) {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [mask.width, mask.height];
  const brush = copy.getContext("2d");
  brush.putImageData(pixelsOf(packed.bits, TEAL, 0), 0, 0);
  brush.globalCompositeOperation = "source-in";
  brush.drawImage(image, 0, 0, mask.width, mask.height);
  return copy;
}

async function loadPicture(value) {
  const [newPicture, newMask] = await Promise.all([loadImage(value.picture), value.mask && loadImage(value.mask)]);
  const another = picture?.src !== newPicture.src;
  [shown, picture] = [value, newPicture];
  stroke = draft = overlay = look = null;
  sent = { mask: value.mask ?? null, version: ++latest }; // what was on its way belongs to the mask before
  if (another) {
    [mask.width, mask.height] = [picture.naturalWidth, picture.naturalHeight];
    stage.style.setProperty("--aspect", mask.width / mask.height);
    [history, now] = [[], -1];
    setBrush(Math.min(mask.width, mask.height) / 8);
    fit();
  }
  maskPen.globalCompositeOperation = "copy";
  if (newMask) {
    maskPen.drawImage(newMask, 0, 0, mask.width, mask.height);
    whiteToPaint();
  } else maskPen.clearRect(0, 0, mask.width, mask.height);
  record();
  publish();
  if (overlayShown()) trigger("overlay");
}

// White where to repaint -> opaque where to repaint.
function whiteToPaint() {
  const pixels = maskPen.getImageData(0, 0, mask.width, mask.height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i] > 127 ? 255 : 0;
  maskPen.putImageData(pixels, 0, 0);
}

// --- what is seen --------------------------------------------------------------------------------------------------

function fit() {
  if (!picture || !canvas.clientWidth) return;
  const scale = Math.min(canvas.clientWidth / mask.width, canvas.clientHeight / mask.height);
  fitted = true;
  view = { scale, x: (canvas.clientWidth - scale * mask.width) / 2, y: (canvas.clientHeight - scale * mask.height) / 2 };
  redraw();
}

function zoom(factor, [x, y]) {
  const least = Math.min(canvas.clientWidth / mask.width, canvas.clientHeight / mask.height) / 2;
  const scale = Math.min(40, Math.max(least, view.scale * factor));
  const by = scale / view.scale;
  fitted = false;
  view = { scale, x: x - by * (x - view.x), y: y - by * (y - view.y) };
  redraw();
}

function redraw() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(() => {
    dirty = false;
    draw();
  });
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (!picture || !width || !height) return; // nothing is open, or the tab is not in view
  pen.setTransform(view.scale * ratio, 0, 0, view.scale * ratio, view.x * ratio, view.y * ratio);
  pen.imageSmoothingEnabled = view.scale * ratio < 3;
  pen.drawImage(picture, 0, 0, mask.width, mask.height);
  if (peeking) return;
  if (look) drawLayer([[look.picture], [mask, "destination-in"]]);
  if (overlay && overlayShown()) pen.drawImage(overlay, 0, 0, mask.width, mask.height);
  else if (look) {
    pen.globalAlpha = VEIL; // over what is painted since
    drawLayer([[mask], [look.mask, "destination-out"]]);
    pen.globalAlpha = 1;
    drawRim();
  } else {
    pen.globalAlpha = VEIL;
    pen.drawImage(mask, 0, 0);
    pen.globalAlpha = 1;
  }
  if (draft) drawDraft();
  if (pointer && (tool === "brush" || tool === "eraser")) drawRing(pointer);
}

const sheet = document.createElement("canvas");
const sheetPen = sheet.getContext("2d");

// Images of the mask's size put together by their composite operations, and the whole drawn over the canvas. An image
// may stand some of the page's pixels aside.
function drawLayer(images) {
  [sheet.width, sheet.height] = [canvas.width, canvas.height]; // clears it
  const { a, e, f } = pen.getTransform();
  for (const [image, operation = "source-over", dx = 0, dy = 0] of images) {
    sheetPen.globalCompositeOperation = operation;
    sheetPen.setTransform(a, 0, 0, a, e + dx, f + dy);
    sheetPen.drawImage(image, 0, 0);
  }
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.drawImage(sheet, 0, 0);
  pen.setTransform(a, 0, 0, a, e, f);
}

// The mask's outline: around it, so that nothing of what lies inside is hidden.
function drawRim() {
  const width = 2 * (window.devicePixelRatio || 1);
  const around = [0, 1, 2, 3, 4, 5, 6, 7].map((eighth) => {
    const angle = (eighth * Math.PI) / 4;
    return [mask, "source-over", width * Math.cos(angle), width * Math.sin(angle)];
  });
  drawLayer([...around, [mask, "destination-out"]]);
}

// Dark and light side by side, so that a line is seen on any picture.
function outline(path) {
  for (const [colour, width] of [["rgba(0, 0, 0, 0.75)", 3], ["#fff", 1.2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width / view.scale;
    pen.stroke(path);
  }
}

function drawRing([x, y]) {
  const ring = new Path2D();
  ring.arc(x, y, brush / 2, 0, 2 * Math.PI);
  outline(ring);
}

function drawDraft() {
  const path = new Path2D();
  const points = draft.kind === "rectangle" ? corners(...draft.points) : draft.points;
  for (const [x, y] of points) path.lineTo(x, y);
  if (draft.kind === "rectangle") path.closePath();
  outline(path);
}

const overlayShown = () => overlayButton.getAttribute("aria-pressed") === "true";

function toggleOverlay() {
  const shown = !overlayShown();
  overlayButton.setAttribute("aria-pressed", shown);
  legend.hidden = !shown;
  overlay = null;
  if (picture) {
    publish();
    trigger("overlay");
  }
  redraw();
}

function toggleHelp() {
  help.hidden = !help.hidden;
  helpButton.setAttribute("aria-expanded", !help.hidden);
}

// --- mouse, pen and fingers ----------------------------------------------------------------------------------------

const touches = new Map(); // pointerId -> [x, y] on the canvas
let stroke = null; // { id, last, panning } of the pointer that paints
let pinch = null; // distance and middle of two fingers

function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

const toMask = ([x, y]) => [(x - view.x) / view.scale, (y - view.y) / view.scale];

function strokeTo(point) {
  maskPen.globalCompositeOperation = tool === "eraser" ? "destination-out" : "source-over";
  maskPen.strokeStyle = maskPen.fillStyle = PAINT;
  maskPen.lineWidth = brush;
  maskPen.lineCap = "round";
  maskPen.beginPath();
  maskPen.moveTo(...stroke.last);
  maskPen.lineTo(...point);
  maskPen.stroke();
  maskPen.beginPath(); // a line without length draws nothing: a tap is a disc
  maskPen.arc(...point, brush / 2, 0, 2 * Math.PI);
  maskPen.fill();
  stroke.last = point;
}

canvas.addEventListener("pointerdown", (event) => {
  if (!picture || (event.pointerType === "mouse" && event.button === 2)) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  const place = placeOf(event);
  if (event.pointerType === "touch") touches.set(event.pointerId, place);
  if (touches.size === 2) return startPinch();
  if (stroke || pinch) return;
  trigger("touch"); // a run of before is overtaken from here on
  const panning = spaceHeld || event.button === 1;
  const point = toMask(place);
  stroke = { id: event.pointerId, last: panning ? place : point, panning };
  if (panning) return;
  const erase = event.altKey;
  overlay = null; // what is painted now is not in it
  if (tool === "rectangle") draft = { kind: "rectangle", points: [point, point], erase };
  else if (tool === "lasso") draft = { kind: "lasso", points: [point], erase };
  else strokeTo(point);
  redraw();
});

canvas.addEventListener("pointermove", (event) => {
  if (touches.has(event.pointerId)) touches.set(event.pointerId, placeOf(event));
  pointer = event.pointerType === "touch" ? null : toMask(placeOf(event));
  if (pinch) return movePinch();
  if (stroke?.id === event.pointerId) {
    if (stroke.panning) {
      const [x, y] = placeOf(event);
      fitted = false;
      view = { ...view, x: view.x + x - stroke.last[0], y: view.y + y - stroke.last[1] };
      stroke.last = [x, y];
    } else
      for (const each of event.getCoalescedEvents?.() ?? [event]) {
        const point = toMask(placeOf(each));
        if (draft?.kind === "rectangle") draft.points[1] = point;
        else if (draft) draft.points.push(point);
        else strokeTo(point);
      }
  }
  redraw();
});

function endStroke(event, cancelled) {
  touches.delete(event.pointerId);
  if (pinch) {
    if (!touches.size) pinch = null;
    return;
  }
  if (stroke?.id !== event.pointerId) return;
  const { panning } = stroke;
  stroke = null;
  if (panning) return;
  if (cancelled) return dropStroke();
  if (draft) {
    fill(draft.kind === "rectangle" ? corners(...draft.points) : draft.points, draft.erase);
    draft = null;
  }
  commit();
}

canvas.addEventListener("pointerup", (event) => endStroke(event, false));
canvas.addEventListener("pointercancel", (event) => endStroke(event, true));
canvas.addEventListener("pointerleave", () => {
  pointer = null;
  redraw();
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());

function dropStroke() {
  stroke = draft = null;
  if (history[now]) paint(history[now]);
}

function startPinch() {
  dropStroke(); // what the first finger began was meant to move the picture
  pinch = spread();
}

function spread() {
  const [[ax, ay], [bx, by]] = [...touches.values()];
  return { distance: Math.hypot(ax - bx, ay - by), middle: [(ax + bx) / 2, (ay + by) / 2] };
}

function movePinch() {
  if (touches.size < 2) return;
  const next = spread();
  view = { ...view, x: view.x + next.middle[0] - pinch.middle[0], y: view.y + next.middle[1] - pinch.middle[1] };
  zoom(next.distance / (pinch.distance || 1), next.middle);
  pinch = next;
}

canvas.addEventListener(
  "wheel",
  (event) => {
    if (!picture || document.activeElement !== canvas) return; // else the page scrolls, as everywhere
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), placeOf(event));
  },
  { passive: false },
);

// --- the keyboard: only while the canvas has the focus -------------------------------------------------------------

let tabTimer = null;

function nextField(backwards) {
  const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")];
  const fields = all.filter((node) => node.tabIndex >= 0 && !node.disabled && node.offsetParent);
  fields[fields.indexOf(canvas) + (backwards ? -1 : 1)]?.focus();
}

function moveRectangle(event) {
  const by = 0.02 * Math.min(mask.width, mask.height);
  const [dx, dy] = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
  if (draft?.kind !== "rectangle") {
    const [w, h] = [mask.width, mask.height];
    draft = { kind: "rectangle", points: [[0.375 * w, 0.375 * h], [0.625 * w, 0.625 * h]], erase: false };
  } else {
    const moved = event.shiftKey ? [draft.points[1]] : draft.points;
    for (const point of moved) [point[0], point[1]] = [point[0] + dx, point[1] + dy];
  }
  redraw();
}

function endRectangle() {
  fill(corners(...draft.points), false);
  draft = null;
  commit();
}

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
    draft = null;
    if (!help.hidden) toggleHelp();
    redraw();
  },
};

// What a key does, if anything.
function commandOf(event) {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) return { z: () => step(event.shiftKey ? +1 : -1), y: () => step(+1) }[key];
  if (event.altKey || !picture) return undefined;
  if (key.startsWith("arrow")) return () => moveRectangle(event);
  if (key === "enter" && draft) return () => endRectangle();
  return SHORTCUTS[key];
}

function waitToPeek() {
  if (tabTimer !== null || peeking) return;
  tabTimer = setTimeout(() => {
    tabTimer = null;
    peeking = true;
    redraw();
  }, HOLD);
}

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
    clearTimeout(tabTimer);
    tabTimer = null;
    nextField(event.shiftKey);
  }
  peeking = false;
  redraw();
});

canvas.addEventListener("blur", () => {
  clearTimeout(tabTimer);
  tabTimer = null;
  peeking = spaceHeld = false;
  redraw();
});

// --- begin ---------------------------------------------------------------------------------------------------------

new ResizeObserver(() => (fitted ? fit() : redraw())).observe(canvas); // also when its tab is opened
watch("value", load);
load();
