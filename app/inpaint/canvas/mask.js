// The mask: a canvas of the picture's size, opaque where to repaint, and the steps by which it came about.

const PAINT = "rgb(20, 184, 166)"; // the page's teal
const PAINT_WORD = 0xffa6b814; // the same as a pixel's four bytes, little-endian: ABGR
const MOST_STEPS = 60; // that can be undone

class Mask {
  canvas = document.createElement("canvas");
  pen = this.canvas.getContext("2d", { willReadFrequently: true });
  steps = []; // { bits, share }: a mask with one bit a pixel, and how much of it is masked; the oldest first
  at = -1; // the step that is seen

  get size() {
    return [this.canvas.width, this.canvas.height];
  }

  get shortSide() {
    return Math.min(...this.size);
  }

  get step() {
    return this.steps[this.at];
  }

  // Another size: nothing is masked, and there is nothing to undo.
  resize(width, height) {
    [this.canvas.width, this.canvas.height] = [width, height];
    [this.steps, this.at] = [[], -1];
  }

  // --- painting, which is no step before it is recorded ---

  // With round ends: without length a disc, which a tap leaves.
  line(from, to, diameter, erase) {
    this.#use(erase ? "destination-out" : "source-over");
    this.pen.lineWidth = diameter;
    this.pen.lineCap = "round";
    this.pen.beginPath();
    this.pen.moveTo(...from);
    this.pen.lineTo(...to);
    this.pen.stroke();
    this.pen.beginPath();
    this.pen.arc(...to, diameter / 2, 0, 2 * Math.PI);
    this.pen.fill();
  }

  fill(points, erase) {
    this.#use(erase ? "destination-out" : "source-over");
    this.pen.beginPath();
    for (const point of points) this.pen.lineTo(...point);
    this.pen.closePath();
    this.pen.fill();
  }

  invert() {
    this.#use("source-out");
    this.pen.fillRect(0, 0, ...this.size);
  }

  clear() {
    this.pen.clearRect(0, 0, ...this.size);
  }

  // An image of a mask, white where to repaint.
  load(image) {
    this.#use("copy");
    this.pen.drawImage(image, 0, 0, ...this.size);
    const pixels = this.pen.getImageData(0, 0, ...this.size);
    for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i] > 127 ? 255 : 0;
    this.pen.putImageData(pixels, 0, 0);
  }

  #use(operation) {
    this.pen.globalCompositeOperation = operation;
    this.pen.strokeStyle = this.pen.fillStyle = PAINT;
  }

  // --- steps ---

  // The mask as it is now can be undone, and come back to.
  record() {
    this.steps = [...this.steps.slice(0, this.at + 1), this.#packed()].slice(-MOST_STEPS);
    this.at = this.steps.length - 1;
    this.restore(); // edges without half-masked pixels: what is seen is what is sent
  }

  // So many steps on, or back; whether there is such a step.
  go(by) {
    if (!this.steps[this.at + by]) return false;
    this.at += by;
    this.restore();
    return true;
  }

  // The step again, without what was painted since.
  restore() {
    if (this.step) this.pen.putImageData(this.#pixels(PAINT_WORD, 0), 0, 0);
  }

  #packed() {
    const { data } = this.pen.getImageData(0, 0, ...this.size);
    const bits = new Uint8Array(Math.ceil(data.length / 32));
    let count = 0;
    for (let i = 3, pixel = 0; i < data.length; i += 4, pixel++)
      if (data[i] > 127) {
        bits[pixel >> 3] |= 1 << (pixel & 7);
        count++;
      }
    return { bits, share: count / (data.length / 4 || 1) };
  }

  #pixels(masked, free) {
    const pixels = new ImageData(...this.size);
    const words = new Uint32Array(pixels.data.buffer);
    const { bits } = this.step;
    for (let pixel = 0; pixel < words.length; pixel++) words[pixel] = bits[pixel >> 3] & (1 << (pixel & 7)) ? masked : free;
    return pixels;
  }

  // --- copies ---

  // The step on a canvas of its own, in two colours, each a pixel's word.
  copy(masked = PAINT_WORD, free = 0) {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = this.size;
    copy.getContext("2d").putImageData(this.#pixels(masked, free), 0, 0);
    return copy;
  }

  // Of an image what the step masks.
  cut(image) {
    const copy = this.copy();
    const pen = copy.getContext("2d");
    pen.globalCompositeOperation = "source-in";
    pen.drawImage(image, 0, 0, ...this.size);
    return copy;
  }
}
