// What is seen on the canvas: the picture, over it the mask, or what it stands for, and the tool that is at work.

const VEIL = 0.6; // how much of the picture the paint hides
const pen = canvas.getContext("2d");
let asked = false; // for a frame
let peeking = false; // the mask is hidden while a key is held
let pointer = null; // where the mouse is, in the mask's pixels

function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    draw();
  });
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = view.place.map((side) => Math.round(side * ratio));
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (!picture || !width || !height) return; // nothing is open, or the tab is not in view
  const scale = view.scale * ratio;
  pen.setTransform(scale, 0, 0, scale, view.x * ratio, view.y * ratio);
  pen.imageSmoothingEnabled = scale < 3;
  pen.drawImage(picture, 0, 0, ...mask.size);
  if (peeking) return;
  drawMask();
  if (draft) drawDraft();
  if (pointer && (tool === "brush" || tool === "eraser")) drawRing(pointer);
}

function drawMask() {
  if (look) drawLayer([[look.picture], [mask.canvas, "destination-in"]]);
  if (overlay && overlayShown()) return pen.drawImage(overlay, 0, 0, ...mask.size);
  pen.globalAlpha = VEIL;
  if (look) drawLayer([[mask.canvas], [look.mask, "destination-out"]]); // what is painted since
  else pen.drawImage(mask.canvas, 0, 0);
  pen.globalAlpha = 1;
  if (look) drawRim();
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
    return [mask.canvas, "source-over", width * Math.cos(angle), width * Math.sin(angle)];
  });
  drawLayer([...around, [mask.canvas, "destination-out"]]);
}

function drawRing([x, y]) {
  const ring = new Path2D();
  ring.arc(x, y, brush / 2, 0, 2 * Math.PI);
  drawLine(ring);
}

function drawDraft() {
  const path = new Path2D();
  for (const point of outlineOf(draft)) path.lineTo(...point);
  if (draft.kind === "rectangle") path.closePath();
  drawLine(path);
}

// Dark and light side by side, so that it is seen on any picture.
function drawLine(path) {
  for (const [colour, width] of [["rgba(0, 0, 0, 0.75)", 3], ["#fff", 1.2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width / view.scale;
    pen.stroke(path);
  }
}
