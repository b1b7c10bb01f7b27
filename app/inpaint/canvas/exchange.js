// What goes between the page and the server: pictures and masks in, the mask out as soon as a stroke ends.
//
// In by `props.value`:  { picture, mask, size, turn, overlay, legend, look, version }; picture, mask and overlay are
// files, `look` a data URI: the quick result, shown inside the mask that it was drawn for.
// Out by `props.value`: the same, with `mask` as it is painted now, its `version`, and `wants_overlay`.
// `turn` grows whenever the server sends a picture or a mask: what has been shown already is not loaded again, and an
// overlay or a look is taken only while the mask is of the version that it was drawn for.

let received = { turn: 0 }; // the value that brought picture and mask
let latest = 0; // version of the mask that is seen
let sent = { mask: null, version: 0 }; // what the server has of it
let sending = Promise.resolve();
let loading = Promise.resolve();

// Whatever has come from the server meanwhile, the mask that is seen is the one that goes back.
function publish() {
  props.value = { ...received, ...sent, wants_overlay: overlayShown() };
}

// --- to the server ---

function send() {
  const version = ++latest;
  const paper = mask.step.share > 0 ? mask.copy(0xffffffff, 0xff000000) : null; // white where to repaint, else black
  overlay = null; // of a mask that is no more
  sending = sending.then(async () => {
    if (version !== latest) return; // overtaken by a newer mask
    const file = paper && (await uploaded(paper));
    if (version !== latest) return;
    sent = { mask: file, version };
    publish();
    trigger("stroke");
    if (overlayShown()) trigger("overlay");
  }).catch(() => {}); // a refused upload, of which the page told
}

async function uploaded(paper) {
  const type = "image/png";
  const blob = await new Promise((done) => paper.toBlob(done, type));
  const { path, url } = await upload(new File([blob], "mask.png", { type }));
  return { path, url, orig_name: "mask.png", mime_type: type, meta: { _type: "gradio.FileData" } };
}

async function quiet() {
  let last;
  do {
    last = [loading, sending];
    await Promise.all(last);
  } while (last[0] !== loading || last[1] !== sending);
}

window.mdtPainter = {
  // The value, once the server has the mask that is seen: no run starts with an older one. Fails where it is refused.
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

// --- from the server ---

function load() {
  loading = loading.then(loadValue).catch((error) => maskedText.replaceChildren(String(error.message)));
}

async function loadValue() {
  const value = props.value;
  empty.hidden = Boolean(value?.picture);
  if (!value?.picture) {
    picture = null;
    return redraw();
  }
  if (value.turn > received.turn) await loadPicture(value);
  else if (value.turn === received.turn && value.version === latest) await loadAnswer(value);
  publish();
  redraw();
}

async function loadPicture(value) {
  const [newPicture, newMask] = await Promise.all([loadImage(value.picture), value.mask && loadImage(value.mask)]);
  const another = picture?.src !== newPicture.src;
  [received, picture] = [value, newPicture];
  stroke = draft = overlay = look = null;
  sent = { mask: value.mask ?? null, version: ++latest }; // what was on its way belongs to the mask before
  if (another) {
    mask.resize(picture.naturalWidth, picture.naturalHeight);
    stage.style.setProperty("--aspect", picture.naturalWidth / picture.naturalHeight);
    setBrush(mask.shortSide / 8);
    fit();
  }
  if (newMask) mask.load(newMask);
  else mask.clear();
  record();
  publish();
  if (overlayShown()) trigger("overlay");
}

// What the server made of the mask: a quick result, or what will be repainted.
async function loadAnswer(value) {
  const file = "look" in value ? value.look && { url: value.look } : value.overlay;
  const image = file ? await loadImage(file) : null;
  if (value.version !== latest) return;
  if ("look" in value) look = image && { picture: mask.cut(image), mask: mask.copy() };
  else {
    overlay = image;
    legend.textContent = value.legend ?? "";
  }
}

function loadImage(file) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error(`${file.orig_name ?? "a picture"} could not be loaded`));
    image.src = file.url;
  });
}
