// The photo with what was found on it: pick a region, all of them, or draw a box by mouse, finger or keyboard.
// Boxes are [x0, y0, x1, y1] in pixels of the upright picture, which is how browsers show it.

import { find, icon, make } from "./elements.js";

const SLIP = 5; // pixels on the screen: less is a tap
const STEP = 0.02; // of the picture, for a key
const SMALLEST = 0.04; // of the picture, a side of a box
const PATIENCE = 500; // ms after the last key

const [stage, frame, image, outlines, box, unseen, chips, hint] = [
  "stage", "frame", "picture", "outlines", "box", "unseen", "regions", "box-hint",
].map(find); // prettier-ignore

let size = null; // [width, height], unknown where the browser cannot show the file
let regions = []; // [{box, score}], of the picture; box null is the whole of it
let chosen = null; // the box that is searched; null: the whole picture, or `each` region by itself
let each = false;
let still = false; // one of several photos: they are searched as they are
let drawing = false; // the next drag draws, whatever it begins on
let drag = null;
let timer = 0;
let act = {};

/** `actions`: onBox(box) where the user wants to look; onEach() they want hits for each region by itself. */
export function watchBoxes(actions) {
  act = actions;
  frame.addEventListener("pointerdown", start);
  frame.addEventListener("pointermove", move);
  frame.addEventListener("pointerup", end);
  frame.addEventListener("pointercancel", cancel);
  frame.addEventListener("dragstart", (event) => event.preventDefault());
  box.addEventListener("keydown", press);
}

/** Show another photo, `alone` or one of several; resolves when the browser has read it, or cannot. */
export async function load(file, alone) {
  URL.revokeObjectURL(image.src);
  [size, regions, chosen, each, still] = [null, [], null, false, !alone];
  frame.classList.toggle("still", still);
  clearTimeout(timer);
  setDrawing(false);
  draw();
  image.hidden = false;
  unseen.hidden = chips.hidden = true;
  stage.hidden = false;
  const place = (image.src = URL.createObjectURL(file));
  try {
    await image.decode();
    size = [image.naturalWidth, image.naturalHeight];
  } catch {
    if (image.src !== place) return; // another one is being shown
    image.hidden = true;
    unseen.hidden = false;
  }
}

/** The picture for a canvas, or null where the browser cannot show it. */
export const shown = () => (size && !image.hidden ? image : null);

/** Say what was found. `found` null keeps the regions: the box was the user's own. `all`: each was searched. */
export function tell(found, searched, [width, height], all) {
  size ??= [width, height];
  if (found) {
    const whole = found.some(({ box }) => !box) ? [] : [{ box: null, score: 0 }];
    regions = [...found, ...whole];
  }
  each = all;
  chosen = all || isWhole(searched) ? null : searched;
  draw();
  drawChips();
}

const isWhole = (corners) =>
  !corners || (corners[0] <= 0 && corners[1] <= 0 && corners[2] >= size[0] && corners[3] >= size[1]);

const same = (one, other) =>
  one === other || Boolean(one && other && one.every((corner, at) => Math.abs(corner - other[at]) < 1));

const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);

/** What the server is asked for: the whole picture too is a box, else it would look for one. */
const choose = (corners) => {
  [chosen, each] = [corners, false];
  draw();
  drawChips();
  act.onBox(corners ?? [0, 0, ...size]);
};

function chooseEach() {
  clearTimeout(timer);
  [chosen, each] = [null, true];
  draw();
  drawChips();
  act.onEach();
}

/** Search a region alone: one of those that `named` names. */
export const chooseRegion = (corners) => {
  choose(corners);
  chips.querySelector("[aria-pressed=true]")?.focus({ preventScroll: true });
};

/** The regions as people are told of them: [{box, name}]. */
function named() {
  let count = 0;
  return regions.map(({ box: corners }) => ({ box: corners, name: corners ? `Region ${(count += 1)}` : "Whole photo" }));
}

/** A region's name, and a small picture of it where the browser can show one. */
export const about = (corners) => ({ name: named().find((region) => same(region.box, corners))?.name, crop: crop(corners) });

// --- drawing ---

function draw() {
  outlines.replaceChildren();
  box.hidden = !chosen || !size || image.hidden;
  if (!size || image.hidden) return;
  for (const region of regions) {
    if (region.box && !same(region.box, chosen)) outlines.append(placed(make("i"), region.box));
  }
  if (!chosen) return;
  placed(box, chosen);
  const [x0, y0, x1, y1] = chosen.map((corner, at) => Math.round((100 * corner) / size[at % 2]));
  const where = `${x0} % from the left, ${y0} % from the top, ${x1 - x0} % wide, ${y1 - y0} % high`;
  box.setAttribute("aria-label", `Searched: ${where}`);
}

function placed(element, [x0, y0, x1, y1]) {
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  element.style.left = percent(x0, size[0]);
  element.style.top = percent(y0, size[1]);
  element.style.width = percent(x1 - x0, size[0]);
  element.style.height = percent(y1 - y0, size[1]);
  return element;
}

function drawChips() {
  const held = [...chips.children].indexOf(document.activeElement);
  const mine = chosen && !regions.some((region) => same(region.box, chosen));
  const picks = named().map(({ box: corners, name }) => {
    const pick = chip(name, !each && same(corners, chosen), () => choose(corners));
    pick.prepend(crop(corners) ?? icon("whole"));
    return pick;
  });
  if (picks.length > 1) {
    const all = chip("Each by itself", each, chooseEach);
    all.prepend(icon("each"));
    picks.push(all);
  }
  const own = chip(mine ? "Your box" : "Draw a box", mine || drawing, askForBox);
  own.prepend((mine && crop(chosen)) || icon("crop"));
  chips.replaceChildren(...picks, own);
  chips.hidden = image.hidden;
  chips.children[held]?.focus({ preventScroll: true });
}

function chip(name, pressed, onClick) {
  return make("button", { type: "button", class: "chip", "aria-pressed": String(Boolean(pressed)), on: { click: onClick } }, name);
}

function crop(corners) {
  if (image.hidden) return null;
  const [x0, y0, x1, y1] = corners ?? [0, 0, ...size];
  const canvas = make("canvas", { width: 80, height: 80, "aria-hidden": "true" });
  const scale = Math.max(80 / (x1 - x0), 80 / (y1 - y0)); // fills the square
  const [width, height] = [80 / scale, 80 / scale];
  const [left, top] = [(x0 + x1 - width) / 2, (y0 + y1 - height) / 2];
  canvas.getContext("2d").drawImage(image, left, top, width, height, 0, 0, 80, 80);
  return canvas;
}

// --- a box of one's own ---

/** The button's work: by keyboard a box to move about; by mouse or finger, the next drag draws one. */
function askForBox(event) {
  if (event.detail > 0) {
    setDrawing(!drawing);
    drawChips();
    frame.scrollIntoView({ block: "nearest" });
    return;
  }
  const [width, height] = size;
  if (!chosen) choose([width / 4, height / 4, (width * 3) / 4, (height * 3) / 4].map(Math.round));
  box.focus();
}

function setDrawing(on) {
  drawing = on;
  frame.classList.toggle("drawing", on);
  hint.hidden = !on;
}

function point(event) {
  const place = frame.getBoundingClientRect();
  const part = (at, low, length) => Math.min(1, Math.max(0, (at - low) / length));
  return [size[0] * part(event.clientX, place.left, place.width), size[1] * part(event.clientY, place.top, place.height)];
}

function start(event) {
  if (!size || still || image.hidden || event.button !== 0 || !event.isPrimary) return;
  const corner = event.target.dataset.corner;
  const inside = box.contains(event.target);
  const finger = event.pointerType === "touch"; // scrolls, unless the user is drawing or holds a corner
  const kind = corner && !drawing ? "resize" : drawing || (!inside && !finger) ? "draw" : finger ? "tap" : "move";
  drag = { kind, from: point(event), screen: [event.clientX, event.clientY], before: chosen, under: false };
  if (kind === "resize") {
    const [x0, y0, x1, y1] = chosen;
    drag.from = [corner.includes("w") ? x1 : x0, corner.includes("n") ? y1 : y0]; // the corner that stays
  }
  frame.setPointerCapture(event.pointerId);
}

function move(event) {
  if (!drag || drag.kind === "tap") return;
  const [x, y] = drag.screen;
  drag.under ||= Math.hypot(event.clientX - x, event.clientY - y) > SLIP;
  if (!drag.under) return;
  const [to, from] = [point(event), drag.from];
  chosen = drag.kind === "move" ? moved(drag.before, to[0] - from[0], to[1] - from[1]) : spanned(from, to);
  draw();
}

function end(event) {
  if (!drag) return;
  const { kind, under } = drag;
  drag = null;
  if (under) {
    setDrawing(false);
    choose(chosen.map(Math.round));
  } else if (kind !== "resize" && !drawing) {
    pick(point(event));
  }
}

function cancel() {
  if (!drag) return;
  chosen = drag.before;
  drag = null;
  draw();
}

/** A tap takes the smallest region there; one that is taken already gives way to the next. */
function pick([x, y]) {
  const here = regions
    .filter(({ box: at }) => at && at[0] <= x && x <= at[2] && at[1] <= y && y <= at[3])
    .sort((one, other) => area(one.box) - area(other.box));
  const taken = here.findIndex((region) => same(region.box, chosen));
  if (here.length && !(here.length === 1 && taken === 0)) choose(here[(taken + 1) % here.length].box);
}

function spanned([x, y], to) {
  const [width, height] = size;
  const [right, down] = [to[0] >= x, to[1] >= y];
  const across = Math.max(Math.abs(to[0] - x), SMALLEST * width);
  const along = Math.max(Math.abs(to[1] - y), SMALLEST * height);
  const x0 = Math.min(width - across, Math.max(0, right ? x : x - across));
  const y0 = Math.min(height - along, Math.max(0, down ? y : y - along));
  return [x0, y0, x0 + across, y0 + along];
}

function moved([x0, y0, x1, y1], across, down) {
  const x = Math.min(size[0] - x1, Math.max(-x0, across));
  const y = Math.min(size[1] - y1, Math.max(-y0, down));
  return [x0 + x, y0 + y, x1 + x, y1 + y];
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function press(event) {
  if (event.key === "Escape") {
    clearTimeout(timer);
    choose(regions[0].box);
    chips.firstElementChild.focus();
    return;
  }
  const arrow = ARROWS[event.key];
  if (!arrow) return;
  event.preventDefault();
  const [across, down] = [arrow[0] * STEP * size[0], arrow[1] * STEP * size[1]];
  const [x0, y0, x1, y1] = chosen;
  chosen = event.shiftKey
    ? spanned([x0, y0], [Math.max(x0, Math.min(size[0], x1 + across)), Math.max(y0, Math.min(size[1], y1 + down))])
    : moved(chosen, across, down);
  draw();
  clearTimeout(timer);
  timer = setTimeout(() => choose(chosen.map(Math.round)), PATIENCE);
}
