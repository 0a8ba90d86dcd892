"use strict";
// The map of the images. All names are set as text. Positions are whole numbers; a pixel is view.scale * value + offset.
(() => {
  const element = (id) => document.getElementById(id);
  const data = JSON.parse(element("data").textContent);
  const canvas = element("map"), context = canvas.getContext("2d");
  const card = element("card"), thumbnail = element("thumbnail"), tiles = element("tiles");
  const { x, y, label, split, predicted } = data, number = x.length;
  const wrong = predicted.map((one, i) => one >= 0 && one !== label[i]);
  const order = [...x.keys()].sort((a, b) => wrong[a] - wrong[b] || label[a] - label[b]); // mistakes are drawn last, so above the others
  const hidden = { label: new Set(), split: new Set() };
  const radius = number > 2000 ? 3.5 : 5, reach = 12, margin = 28;
  let onlyMistakes = false, chosen = -1, moving = false, resting = 0, width = 0, height = 0, ratio = 1, pending = false, stamps = new Map();
  const bounds = [x, y].map((values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]));
  const view = { scale: 1, x: 0, y: 0 };
  const shown = (i) => !(onlyMistakes && !wrong[i]) && !hidden.label.has(label[i]) && !hidden.split.has(split[i]);
  const place = (i) => [view.scale * x[i] + view.x, view.y - view.scale * y[i]];

  // A grid of cells over the points, so that a pointer is compared with few of them.
  const cells = 64, side = [0, 1].map((axis) => (bounds[axis][1] - bounds[axis][0]) / cells || 1);
  const cell = (value, axis) => Math.max(0, Math.min(cells - 1, Math.floor((value - bounds[axis][0]) / side[axis])));
  const grid = Array.from({ length: cells * cells }, () => []);
  for (const i of order) grid[cell(y[i], 1) * cells + cell(x[i], 0)].push(i);

  function nearest(px, py) {
    const cx = (px - view.x) / view.scale, cy = (view.y - py) / view.scale, far = reach / view.scale;
    let best = -1, least = reach * reach;
    for (let row = cell(cy - far, 1); row <= cell(cy + far, 1); row++)
      for (let column = cell(cx - far, 0); column <= cell(cx + far, 0); column++)
        for (const i of grid[row * cells + column]) {
          if (!shown(i)) continue;
          const [ox, oy] = place(i), distance = (ox - px) ** 2 + (oy - py) ** 2;
          if (distance <= least) [best, least] = [i, distance];
        }
    return best;
  }

  function stamp(i) {
    const key = (label[i] * 3 + split[i]) * 2 + wrong[i];
    if (stamps.has(key)) return stamps.get(key);
    const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--ink"), paper = style.getPropertyValue("--surface");
    const drawn = document.createElement("canvas"), size = 2 * (radius + 5);
    drawn.width = drawn.height = Math.ceil(size * ratio);
    const pen = drawn.getContext("2d"), r = radius;
    pen.scale(ratio, ratio);
    pen.translate(size / 2, size / 2);
    pen.beginPath();
    if (split[i] === 0) pen.arc(0, 0, r, 0, 7);
    else if (split[i] === 1) pen.rect(-r * 0.9, -r * 0.9, r * 1.8, r * 1.8);
    else { pen.moveTo(0, -r * 1.2); pen.lineTo(r * 1.15, r * 0.85); pen.lineTo(-r * 1.15, r * 0.85); pen.closePath(); }
    pen.fillStyle = data.colours[label[i]];
    pen.fill();
    pen.lineWidth = 1; pen.strokeStyle = paper; pen.stroke();
    if (wrong[i]) { pen.beginPath(); pen.arc(0, 0, r + 3.5, 0, 7); pen.lineWidth = 2; pen.strokeStyle = ink; pen.stroke(); }
    stamps.set(key, drawn);
    return drawn;
  }

  function draw() {
    pending = false;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const half = radius + 5;
    for (const i of order) {
      if (!shown(i)) continue;
      const [px, py] = place(i);
      if (px < -half || py < -half || px > width + half || py > height + half) continue;
      if (moving && !wrong[i]) {
        context.fillStyle = data.colours[label[i]];
        context.fillRect(Math.round((px - radius) * ratio), Math.round((py - radius) * ratio), 2 * radius * ratio, 2 * radius * ratio);
      } else context.drawImage(stamp(i), Math.round((px - half) * ratio), Math.round((py - half) * ratio));
    }
    if (chosen >= 0) {
      const [px, py] = place(chosen);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.beginPath(); context.arc(px, py, radius + 7, 0, 7);
      context.lineWidth = 3; context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--leaf"); context.stroke();
      moveCard(px, py);
    }
  }
  // While thousands of points move, they are plain squares: without a graphics card, their shapes take too long.
  function moves() {
    moving = number > 2000;
    clearTimeout(resting);
    resting = setTimeout(() => { moving = false; redraw(); }, 150);
    redraw();
  }
  const redraw = () => { if (!pending) { pending = true; requestAnimationFrame(draw); } };

  function moveCard(px, py) {
    const left = px + 18 + card.offsetWidth > width ? px - 18 - card.offsetWidth : px + 18;
    card.style.left = `${Math.max(4, Math.min(left, width - card.offsetWidth - 4))}px`;
    card.style.top = `${Math.max(4, Math.min(py - card.offsetHeight / 2, height - card.offsetHeight - 4))}px`;
  }

  function paint(i) {
    const { tile, columns } = data;
    thumbnail.getContext("2d").drawImage(tiles, (i % columns) * tile, Math.floor(i / columns) * tile, tile, tile, 0, 0, thumbnail.width, thumbnail.height);
  }
  function choose(i) {
    if (i === chosen) return;
    chosen = i;
    card.hidden = i < 0;
    if (i >= 0) {
      paint(i);
      const told = predicted[i] < 0 ? "none: learned from it" : `${data.classes[predicted[i]]} (${data.confidence[i]}\u00a0%)`;
      element("path").textContent = data.path[i];
      element("label").textContent = data.classes[label[i]];
      element("predicted").textContent = told + (wrong[i] ? ", wrong" : "");
      element("split").textContent = data.splits[split[i]];
    }
    redraw();
  }

  function zoom(factor, px = width / 2, py = height / 2) {
    const scale = Math.max(fitted() / 2, Math.min(view.scale * factor, fitted() * 400));
    view.x = px - ((px - view.x) * scale) / view.scale;
    view.y = py - ((py - view.y) * scale) / view.scale;
    view.scale = scale;
    moves();
  }
  const span = (axis) => bounds[axis][1] - bounds[axis][0] || 1;
  const fitted = () => Math.min((width - 2 * margin) / span(0), (height - 2 * margin) / span(1));
  function fit() {
    view.scale = fitted();
    view.x = width / 2 - (view.scale * (bounds[0][0] + bounds[0][1])) / 2;
    view.y = height / 2 + (view.scale * (bounds[1][0] + bounds[1][1])) / 2;
    redraw();
  }
  function pan(dx, dy) { view.x += dx; view.y += dy; moves(); }
  function resize() {
    const before = width;
    if (before === canvas.clientWidth && height === canvas.clientHeight && ratio === window.devicePixelRatio) return;
    width = canvas.clientWidth; height = canvas.clientHeight; ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    stamps = new Map();
    if (before) redraw(); else fit();
  }
  function show(i) { // moves the map, if the point is outside of it
    const [px, py] = place(i);
    if (px < 0 || py < 0 || px > width || py > height) pan(width / 2 - px, height / 2 - py);
    choose(i);
  }
  function step(dx, dy) { // to the nearest point in a direction
    const [fx, fy] = chosen < 0 ? [width / 2, height / 2] : place(chosen);
    let best = -1, least = Infinity;
    for (let i = 0; i < number; i++) {
      if (i === chosen || !shown(i)) continue;
      const [px, py] = place(i), ahead = (px - fx) * dx + (py - fy) * dy, aside = Math.abs((px - fx) * dy) + Math.abs((py - fy) * dx);
      if (chosen >= 0 && ahead <= 0) continue;
      const cost = chosen < 0 ? Math.hypot(px - fx, py - fy) : ahead + 2 * aside;
      if (cost < least) [best, least] = [i, cost];
    }
    if (best >= 0) show(best);
  }
  function nextMistake() {
    const all = order.filter((i) => wrong[i] && shown(i));
    if (all.length) show(all[(all.indexOf(chosen) + 1) % all.length]);
  }

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const keys = { "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: fit, m: nextMistake, Escape: () => choose(-1) };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = arrows[event.key], act = keys[event.key];
    if (arrow) event.shiftKey ? pan(-60 * arrow[0], -60 * arrow[1]) : step(...arrow);
    else if (act) act();
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX, event.offsetY);
  }, { passive: false });

  const pointers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = [event.offsetX, event.offsetY], before = pointers.get(event.pointerId);
    if (!before) { choose(nearest(...now)); return; }
    const other = [...pointers].find(([id]) => id !== event.pointerId);
    if (other) {
      const [ox, oy] = other[1], far = (p) => Math.max(1, Math.hypot(p[0] - ox, p[1] - oy));
      zoom(far(now) / far(before), ox, oy);
      moved = Infinity;
    } else pan(now[0] - before[0], now[1] - before[1]);
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    pointers.set(event.pointerId, now);
  });
  const release = (event) => {
    if (pointers.delete(event.pointerId) && event.type === "pointerup" && moved < 5) choose(nearest(event.offsetX, event.offsetY));
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);

  function toggle(button, set, value) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      on ? set.delete(value) : set.add(value);
      if (chosen >= 0 && !shown(chosen)) choose(-1);
      redraw();
    });
  }
  for (const kind of ["label", "split"])
    for (const button of document.querySelectorAll(`button[data-${kind}]`)) toggle(button, hidden[kind], Number(button.dataset[kind]));
  element("mistakes").addEventListener("click", ({ currentTarget }) => {
    onlyMistakes = !onlyMistakes;
    currentTarget.setAttribute("aria-pressed", onlyMistakes);
    if (chosen >= 0 && !shown(chosen)) choose(-1);
    redraw();
  });
  for (const [id, act] of [["in", () => zoom(1.4)], ["out", () => zoom(1 / 1.4)], ["fit", fit], ["next", nextMistake]]) element(id).addEventListener("click", act);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { stamps = new Map(); redraw(); });
  tiles.addEventListener("load", () => { if (chosen >= 0) paint(chosen); });
  resize();
  new ResizeObserver(resize).observe(canvas);
})();
