// Before and after: two pictures in one place, a line between them that is dragged, and a key that shows what was before.
//
// Gradio runs this file as the body of a function, with `element`, `props` and `watch` in reach.
// `props.value`: { before, after, caption }, of which the first two are files; null or "": nothing is there.

const before = make("img", { alt: "before", draggable: "false" });
const after = make("img", { alt: "after", draggable: "false", class: "after" });
const slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Before and after: where the line is" });
const box = make("div", { class: "pair" }, before, after,
  make("span", { class: "label left" }, "Before"), make("span", { class: "label right" }, "After"), slider);
const hint = make("p", { class: "hint" }, "Drag the line", make("kbd", {}, ", or hold B"), " to see what was before.");

element.replaceChildren(box, hint);
after.addEventListener("load", () => box.style.setProperty("--aspect", after.naturalWidth / after.naturalHeight));

const split = (percent) => box.style.setProperty("--split", `${percent}%`);
slider.addEventListener("input", () => split(slider.value));

let held = false;
const hold = (down) => {
  if (held === down || !box.offsetParent) return;
  held = down;
  split(down ? 100 : slider.value);
};
const isKey = (event) => event.key.toLowerCase() === "b" && !event.ctrlKey && !event.metaKey && !event.target.matches("input:not([type=range]), textarea");
document.addEventListener("keydown", (event) => isKey(event) && hold(true));
document.addEventListener("keyup", (event) => isKey(event) && hold(false));

function load() {
  const value = props.value;
  if (!value?.after) return;
  before.src = value.before.url;
  after.src = value.after.url;
  after.alt = value.caption ?? "after";
  slider.value = 50;
  split(50);
}

watch("value", load);
load();
