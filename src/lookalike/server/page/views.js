// The photos of the query: one, or several views of one thing, in a strip below the one that is shown large.

import { find, icon, make } from "./elements.js";

const MOST = 16; // that the service takes at once

const strip = find("views");
let views = []; // {file, url}
let at = 0; // the one that is shown large
let act = {};

/** `actions`: onLook() another one is shown large; onChange() they are others than before; onTrouble(line). */
export function watchViews(actions) {
  act = actions;
}

export const all = () => views.map(({ file }) => file);

export const shown = () => views[at].file;

/** Whether the large one is the first, which answers speak of. */
export const first = () => at === 0;

/** Have these in the place of those that were there. */
export function take(files) {
  views.forEach(({ url }) => URL.revokeObjectURL(url));
  [views, at] = [[], 0];
  add(files);
}

export function add(files) {
  const fitting = files.slice(0, MOST - views.length);
  views.push(...fitting.map((file) => ({ file, url: URL.createObjectURL(file) })));
  draw();
  act.onChange();
  if (fitting.length < files.length) act.onTrouble(`${MOST} photos at most are searched together.`);
}

function remove(place) {
  const [{ url }] = views.splice(place, 1);
  URL.revokeObjectURL(url);
  if (place < at || at === views.length) at -= 1;
  draw();
  (strip.querySelector("[aria-pressed=true]") ?? find("add")).focus(); // what was focused is gone
  act.onChange();
}

function look(place) {
  if (place === at) return;
  at = place;
  draw();
  strip.querySelector("[aria-pressed=true]").focus();
  act.onLook();
}

function draw() {
  find("together").hidden = views.length < 2;
  strip.hidden = views.length < 2;
  strip.replaceChildren(...(views.length < 2 ? [] : views.map(view)));
}

function view({ url }, place) {
  const which = `photo ${place + 1} of ${views.length}`;
  const image = make("img", { src: url, alt: "" });
  image.addEventListener("error", () => image.replaceWith(icon("missing")));
  return make(
    "div",
    { class: "view" },
    make("button", { type: "button", class: "thumb", "aria-pressed": String(place === at), "aria-label": `Show ${which}`, on: { click: () => look(place) } }, image),
    make("button", { type: "button", class: "remove", "aria-label": `Remove ${which}`, on: { click: () => remove(place) } }, icon("close")),
  );
}
