// A picture that is pasted anywhere on the tab, or dropped onto its stage, goes through the "Open picture" button.
if (!window.mdtOpensPictures) {
  window.mdtOpensPictures = true;
  const open = (files) => {
    const picture = [...files].find((file) => file.type.startsWith("image/"));
    const button = document.querySelector("#inpaint-open");
    const input = button?.parentElement.querySelector("input[type=file]") ?? document.querySelector("input[type=file]#inpaint-open");
    if (!picture || !button?.offsetParent || !input) return false;
    const transfer = new DataTransfer();
    transfer.items.add(picture);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  };
  document.addEventListener("paste", (event) => {
    if (open(event.clipboardData?.files ?? [])) event.preventDefault();
  });
  for (const name of ["dragover", "drop"])
    document.addEventListener(
      name,
      (event) => {
        if (!event.target.closest?.("#inpaint-result")) return;
        event.preventDefault();
        event.stopPropagation();
        if (name === "drop") open(event.dataTransfer.files);
      },
      true,
    );
}
