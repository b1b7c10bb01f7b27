// How the picture lies in the canvas that shows it: pixels of the mask -> pixels of the page.

class View {
  scale = 1;
  x = 0;
  y = 0;
  fitted = true; // the whole picture is seen, whatever the size of its place

  constructor(canvas, mask) {
    this.canvas = canvas;
    this.mask = mask;
  }

  get place() {
    return [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  // The scale at which the whole picture is seen.
  get whole() {
    return Math.min(...this.place.map((side, axis) => side / this.mask.size[axis]));
  }

  fit() {
    this.fitted = true;
    this.scale = this.whole;
    [this.x, this.y] = this.place.map((side, axis) => (side - this.scale * this.mask.size[axis]) / 2);
  }

  // Larger by a factor; the point of the page stays where it is.
  zoom(factor, [x, y]) {
    const scale = Math.min(40, Math.max(this.whole / 2, this.scale * factor));
    const by = scale / this.scale;
    this.fitted = false;
    [this.scale, this.x, this.y] = [scale, x - by * (x - this.x), y - by * (y - this.y)];
  }

  pan(dx, dy) {
    this.fitted = false;
    this.x += dx;
    this.y += dy;
  }

  // A point of the page, in the mask's pixels.
  toMask([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }
}
