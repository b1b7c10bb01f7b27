// What Gradio's markup leaves out for keyboards and screen readers, mended as it comes onto the page; what a run says.
() => {
  const visible = (selector) => [...document.querySelectorAll(selector)].find((node) => node.checkVisibility());
  const set = (node, name, value) => node.getAttribute(name) !== value && node.setAttribute(name, value);

  // A run is heard when it starts and when it ends, and what is drawn live when it rests: steps would talk all the time.
  const said = Object.assign(document.createElement("div"), { className: "heard", role: "status" });
  document.body.append(said);
  let running = false;
  let later = 0;
  const hear = () => {
    const text = visible(".status")?.innerText;
    if (text && text !== said.textContent) said.textContent = text;
  };
  const say = () => {
    const before = running;
    running = Boolean(visible(".stop"));
    if (running && !before) document.dispatchEvent(new Event("mdt:run")); // follow.js
    if (before && running) return;
    clearTimeout(later);
    later = setTimeout(hear, before === running ? 1000 : 0);
  };

  const mend = () => {
    // Radio buttons of one name are one stop for Tab, and arrow keys go through them.
    for (const group of document.querySelectorAll("fieldset:has(input[type=radio])")) {
      set(group, "role", "radiogroup");
      set(group, "aria-label", group.querySelector("[data-testid=block-info]")?.textContent ?? "");
      for (const radio of group.querySelectorAll("input[type=radio]")) set(radio, "name", group.id);
    }
    // A list of options is no stop for Tab: when it closes under the focus, its field still counts as focused.
    for (const list of document.querySelectorAll("ul[role=listbox]")) set(list, "tabindex", "-1");
    // A picture of a gallery is called by its caption, and only once.
    for (const button of document.querySelectorAll(".thumbnail-lg:has(.caption-label)")) {
      button.removeAttribute("aria-label");
      for (const picture of button.querySelectorAll("img")) set(picture, "alt", "");
    }
    // The head of a message holds a button, its cross, and so can be none itself.
    for (const head of document.querySelectorAll(".toast-header[role=button]")) {
      head.removeAttribute("role");
      head.removeAttribute("tabindex");
    }
    // Of a refused upload the sentence is enough.
    for (const text of document.querySelectorAll("[data-testid=toast-text]")) {
      const sentence = text.textContent.replace(/^HTTP \d+: /, "");
      if (sentence !== text.textContent) text.textContent = sentence;
    }
    // The picture that "Use seed ... again" and "Send to Inpaint" speak of has a ring, also when the viewer is closed.
    const seed = document.querySelector("#generate-again")?.innerText.match(/seed \d+/)?.[0];
    for (const button of document.querySelectorAll("#generate-gallery .thumbnail-lg"))
      button.classList.toggle("chosen", Boolean(seed) && button.innerText.startsWith(`${seed} `));
  };

  // Tab leaves a list of options: Gradio, told of the key after the focus has moved on, would open it again.
  const leaves = (event) => event.key === "Tab" && event.target.matches("[role=combobox]");
  document.addEventListener("keydown", (event) => leaves(event) && event.stopPropagation(), true);

  // Start and Stop take each other's place, and a result that of the canvas: the keyboard stays with the run.
  let focused = null;
  document.addEventListener("focusin", ({ target }) => {
    focused = target;
  });
  const follow = () => {
    if (!focused?.matches(".start, .stop, canvas") || focused.checkVisibility()) return;
    if ([document.body, focused].includes(document.activeElement))
      visible(running ? ".stop" : ".start")?.focus({ preventScroll: true });
  };

  let asked = false;
  const look = () => {
    asked = false;
    mend();
    say();
    follow();
  };
  const changes = { subtree: true, childList: true, characterData: true, attributeFilter: ["class", "alt", "aria-label"] };
  new MutationObserver(() => {
    if (!asked) requestAnimationFrame(look);
    asked = true;
  }).observe(document.body, changes);
  look();
};
