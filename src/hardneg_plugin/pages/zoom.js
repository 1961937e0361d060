// Views seen larger, and the boxes of what they show.

let showsBoxes = true;

// Boxes [view, label, top, left, bottom, right] in shares of a view, over its image.
function boxesOf(boxes) {
  if (!boxes.length) return null;
  const drawn = element("svg", { class: "boxes", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": true });
  for (const [, label, top, left, bottom, right] of boxes) {
    const rect = element("rect", { x: left, y: top, width: right - left, height: bottom - top });
    rect.append(element("title", {}, label));
    drawn.append(rect);
  }
  drawn.classList.toggle("off", !showsBoxes);
  return drawn;
}

// Switches the boxes on and off, for the studies that follow too, and names them.
function boxesSwitch(images, boxes) {
  const box = element("input", { type: "checkbox" });
  box.checked = showsBoxes;
  box.addEventListener("change", () => {
    showsBoxes = box.checked;
    for (const drawn of images.querySelectorAll(".boxes")) drawn.classList.toggle("off", !showsBoxes);
  });
  const labels = [...new Set(boxes.map(([, label]) => label))];
  return element("label", { class: "check boxed" }, box, `Boxes: ${labels.join(", ")}`);
}

// Opens an image, or a larger one of the same view, over the page: its buttons and the keys + and - zoom, a drag or the arrow keys move it, Escape closes it.
async function enlarge(shown, boxes, name, jpeg) {
  const image = jpeg ? element("img", { src: `data:image/jpeg;base64,${jpeg}`, alt: name }) : shown.cloneNode();
  await image.decode(); // its size is known then
  const whole = element("div", { class: "whole" }, image, boxes?.cloneNode(true) ?? null);
  const stage = element("div", { class: "stage", tabindex: "0", role: "region", "aria-label": name }, whole);
  const size = element("output");
  const button = (text, label, act) => {
    const made = element("button", { type: "button", "aria-label": label }, text);
    made.addEventListener("click", act);
    return made;
  };
  const dialog = element(
    "dialog",
    { class: "zoom", "aria-label": name },
    element(
      "div",
      { class: "steps" },
      button("−", "Smaller", () => scale(zoom / 1.5)),
      size,
      button("+", "Larger", () => scale(zoom * 1.5)),
      button("Close", "Close", () => dialog.close()),
    ),
    stage,
  );
  let zoom = 1;
  const fitting = () => Math.min(stage.clientWidth / image.naturalWidth, stage.clientHeight / image.naturalHeight);
  const scale = (to, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
    const next = Math.max(1, Math.min(12, to));
    const [left, top] = [((stage.scrollLeft + x) * next) / zoom - x, ((stage.scrollTop + y) * next) / zoom - y];
    zoom = next;
    whole.style.width = `${image.naturalWidth * fitting() * zoom}px`;
    [stage.scrollLeft, stage.scrollTop] = [left, top];
    size.textContent = `${Math.round(100 * fitting() * zoom)} %`;
  };
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    event.stopPropagation(); // outside of the dialog these keys go from study to study
    if (["+", "="].includes(event.key)) scale(zoom * 1.5);
    else if (event.key === "-") scale(zoom / 1.5);
  });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const bounds = stage.getBoundingClientRect();
    scale(zoom * 1.2 ** -Math.sign(event.deltaY), event.clientX - bounds.left, event.clientY - bounds.top);
  });
  stage.addEventListener("pointermove", (event) => {
    if (event.buttons === 1 && event.pointerType === "mouse") stage.scrollBy(-event.movementX, -event.movementY);
  });
  image.draggable = false;
  document.body.append(dialog);
  dialog.showModal();
  scale(1);
  stage.focus();
}
