for (const viewer of document.querySelectorAll(".viewer")) {
  const range = viewer.querySelector("input");
  const place = (percent) => {
    const bounded = Math.min(100, Math.max(0, percent));
    range.value = bounded;
    viewer.style.setProperty("--cut", bounded + "%");
  };
  const follow = (event) => {
    const box = viewer.getBoundingClientRect();
    place(100 * (event.clientX - box.left) / box.width);
  };
  const look = (x, y) => {
    const close = viewer.classList.toggle("close");
    viewer.style.setProperty("--zoom", close ? 4 : 1);
    if (close) viewer.style.setProperty("--focus", x + "% " + y + "%");
  };
  range.addEventListener("input", () => place(Number(range.value)));
  range.addEventListener("keydown", (event) => { if (event.key === "Enter") look(50, 50); });
  viewer.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    viewer.setPointerCapture(event.pointerId);
    follow(event);
  });
  viewer.addEventListener("pointermove", (event) => { if (viewer.hasPointerCapture(event.pointerId)) follow(event); });
  viewer.addEventListener("dblclick", (event) => {
    const box = viewer.getBoundingClientRect();
    look(100 * (event.clientX - box.left) / box.width, 100 * (event.clientY - box.top) / box.height);
  });
}

const sides = [...document.querySelectorAll(".segmented")];
const chosen = (side) => side.querySelector("[aria-pressed=true]");
const press = (side, role) => {
  for (const button of side.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.role === role));
};
const show = () => {
  for (const side of sides) {
    const role = chosen(side).dataset.role, name = side.dataset.side;
    side.scrollLeft = chosen(side).offsetLeft - side.offsetLeft - 24; // a narrow screen does not show all names at once
    for (const viewer of document.querySelectorAll(".viewer")) {
      const half = viewer.querySelector(".half." + name), image = viewer.querySelector(`img[data-role="${role}"]`);
      for (const other of half.querySelectorAll("img")) other.className = "";
      if (image) {
        half.append(image);
        image.className = "shown";
      }
      viewer.querySelector(".label." + name).textContent = names[role];
    }
  }
};
for (const side of sides) {
  side.addEventListener("click", (event) => {
    const role = event.target.dataset.role;
    if (!role) return;
    const other = sides.find((one) => one !== side);
    // One image cannot be on both sides: the sides change places.
    if (chosen(other).dataset.role === role) press(other, chosen(side).dataset.role);
    press(side, role);
    show();
  });
}
if (sides.length) show();
