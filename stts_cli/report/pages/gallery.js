"use strict";
// Galleries of frames: which arm's dropped windows are dark, and the score of the window under the pointer or cursor.
for (const gallery of document.querySelectorAll(".gallery")) {
  const { owner, arms } = JSON.parse(gallery.querySelector("script").textContent);
  const rows = owner.length, columns = owner[0].length;
  const figures = [...gallery.querySelectorAll("figure")], says = gallery.querySelector("output");
  const chosen = () => Number(gallery.querySelector("input:checked").value);
  let at = null; // [frame, row, column] of what is shown

  function show(frame, row, column) {
    const moved = at !== null && at[0] !== frame;
    if (moved) figures[at[0]].querySelector(".window").setAttribute("hidden", "");
    at = [frame, row, column];
    const window_ = owner[row][column], arm = arms[chosen()] ?? arms[0];
    let path = "";
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        if (owner[r][c] !== window_) continue;
        if (owner[r - 1]?.[c] !== window_) path += `M${c} ${r}h1`;
        if (owner[r + 1]?.[c] !== window_) path += `M${c} ${r + 1}h1`;
        if (owner[r][c - 1] !== window_) path += `M${c} ${r}v1`;
        if (owner[r][c + 1] !== window_) path += `M${c + 1} ${r}v1`;
      }
    }
    const outline = figures[frame].querySelector(".window");
    outline.setAttribute("d", path);
    outline.removeAttribute("hidden");
    const time = figures[frame].querySelector("img").alt;
    const score = arm.scores ? `, score ${arm.scores[frame][window_].toPrecision(3)}` : "";
    const kept = arm.kept[frame][window_] === "1" ? "kept" : "dropped";
    says.textContent = `${time}, window ${window_}: ${kept} by ${arm.name}${score}`;
    figures[frame].title = says.textContent;
  }

  function hide() {
    if (at) figures[at[0]].querySelector(".window").setAttribute("hidden", "");
    at = null;
    says.textContent = "";
  }

  function step(key) {
    let [frame, row, column] = at ?? [figures.indexOf(document.activeElement), 0, 0];
    if (at) {
      const before = owner[row][column];
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key] ?? [0, 0];
      while (down || right) {
        row += down;
        column += right;
        if (owner[row]?.[column] !== before) break;
      }
      if (key === "PageDown" || column >= columns) [frame, column] = [frame + 1, key === "PageDown" ? column : 0];
      if (key === "PageUp" || column < 0) [frame, column] = [frame - 1, key === "PageUp" ? column : columns - 1];
      if (row < 0 || row >= rows || frame < 0 || frame >= figures.length) return;
    }
    figures.forEach((figure, i) => (figure.tabIndex = i === frame ? 0 : -1));
    figures[frame].focus();
    show(frame, row, column);
  }

  figures.forEach((figure, frame) => {
    figure.tabIndex = frame ? -1 : 0; // one stop of the Tab key a gallery
    const picture = figure.querySelector(".picture");
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const inside = (position, size, count) => Math.min(Math.max(Math.floor((position / size) * count), 0), count - 1);
      show(frame, inside(event.clientY - box.top, box.height, rows), inside(event.clientX - box.left, box.width, columns));
    });
    picture.addEventListener("pointerleave", hide);
    figure.addEventListener("blur", hide);
    figure.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      else if (/^(Arrow|Page)/.test(event.key)) step(event.key);
      else return;
      event.preventDefault();
    });
  });
  gallery.addEventListener("change", () => {
    for (const part of gallery.querySelectorAll("[data-arm]")) part.toggleAttribute("hidden", Number(part.dataset.arm) !== chosen());
    if (at) show(...at);
  });
}
