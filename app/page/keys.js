// Ctrl + Enter (or Cmd + Enter) presses the start button of the tab in view.
() => {
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      const start = [...document.querySelectorAll("button.start")].find((button) => button.checkVisibility() && !button.disabled);
      if (!start) return;
      event.preventDefault();
      event.stopPropagation();
      document.activeElement?.blur(); // a number being typed counts
      start.click();
    },
    true,
  );
};
