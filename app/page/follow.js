// When a run starts, its stage is scrolled into view and stays there: unless, and until, the visitor scrolls.
() => {
  const NEEDED = 300; // pixels below the status line, in which pictures come
  const root = document.documentElement;
  let asked = false; // a start button was pressed, and its run has not begun
  const leave = () => {
    asked = false;
    root.style.overflowAnchor = "";
  };
  for (const name of ["wheel", "touchmove", "keydown"]) window.addEventListener(name, leave, { capture: true, passive: true });
  document.addEventListener("click", ({ target }) => {
    asked = Boolean(target.closest?.("button.start"));
  }, true);

  document.addEventListener("mdt:run", () => {
    const status = [...document.querySelectorAll(".status")].find((node) => node.checkVisibility());
    if (!asked || !status) return;
    asked = false;
    const { top, bottom } = status.getBoundingClientRect();
    if (top >= 0 && bottom + NEEDED <= window.innerHeight) return;
    root.style.overflowAnchor = "none"; // else the browser holds on to what lies below a stage that changes its height
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    status.scrollIntoView({ block: "start", behavior: still ? "instant" : "smooth" });
  });
};
