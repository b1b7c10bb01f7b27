// Mouse, pen and fingers on the canvas: one paints, the space bar or two fingers move the picture.

const touches = new Map(); // pointerId -> [x, y] on the canvas
let stroke = null; // { id, last, panning } of the pointer that paints
let pinch = null; // distance and middle of two fingers
let spaceHeld = false;

function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
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
  stroke = { id: event.pointerId, last: panning ? place : view.toMask(place), panning };
  if (!panning) startStroke(stroke.last, event.altKey);
  redraw();
});

canvas.addEventListener("pointermove", (event) => {
  const place = placeOf(event);
  if (touches.has(event.pointerId)) touches.set(event.pointerId, place);
  pointer = event.pointerType === "touch" ? null : view.toMask(place);
  if (pinch) return movePinch();
  if (stroke?.id === event.pointerId) {
    if (stroke.panning) {
      view.pan(place[0] - stroke.last[0], place[1] - stroke.last[1]);
      stroke.last = place;
    } else for (const each of event.getCoalescedEvents?.() ?? [event]) moveStroke(view.toMask(placeOf(each)));
  }
  redraw();
});

canvas.addEventListener("pointerup", (event) => endStroke(event, false));
canvas.addEventListener("pointercancel", (event) => endStroke(event, true));
canvas.addEventListener("pointerleave", () => {
  pointer = null;
  redraw();
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());

// --- a stroke ---

function startStroke(point, erase) {
  overlay = null; // what is painted now is not in it
  if (tool === "rectangle") draft = { kind: tool, points: [point, point], erase };
  else if (tool === "lasso") draft = { kind: tool, points: [point], erase };
  else moveStroke(point);
}

function moveStroke(point) {
  if (draft?.kind === "rectangle") draft.points[1] = point;
  else if (draft) draft.points.push(point);
  else mask.line(stroke.last, point, brush, tool === "eraser");
  stroke.last = point;
}

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
  if (cancelled) dropStroke();
  else if (draft) maskDraft();
  else commit();
}

// What is painted or drawn just now is given up; the pointer goes on without it.
function dropStroke() {
  stroke = draft = null;
  mask.restore();
  redraw();
}

// --- two fingers ---

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
  view.pan(next.middle[0] - pinch.middle[0], next.middle[1] - pinch.middle[1]);
  view.zoom(next.distance / (pinch.distance || 1), next.middle);
  pinch = next;
  redraw();
}

canvas.addEventListener(
  "wheel",
  (event) => {
    if (!picture || document.activeElement !== canvas) return; // else the page scrolls, as everywhere
    event.preventDefault();
    view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), placeOf(event));
    redraw();
  },
  { passive: false },
);
