// Hits as cards. A card stays the same element while its item stays: it moves to its new place.

import { show } from "./api.js";
import { calm, facts, find, icon, make } from "./elements.js";

const SKELETONS = 8;

const [section, list, groups, summary, notice, more, running] = [
  "hits", "list", "groups", "summary", "notice", "more", "running",
].map(find); // prettier-ignore

let cards = new Map(); // elements by item
let held = new Map(); // hits by item
let scale = 1; // the score that fills a bar: a cosine's 1, or the best that words got
let act = {};

/** `actions`: onItem(hit, box), onWhy(hit, box), onMore(), onRegion(box); `box` where hits are by region. */
export function watchResults(actions) {
  act = actions;
  more.addEventListener("click", () => act.onMore());
}

/** Something is under way: cards that are there step back, else empty ones hold their place. */
export function wait() {
  section.setAttribute("aria-busy", "true");
  running.classList.add("on");
  more.disabled = true;
  if (cards.size || groups.children.length) return;
  summary.textContent = "";
  const bone = () => make("li", { class: "card skeleton", "aria-hidden": "true" }, make("div", { class: "shot" }), make("i"), make("i"));
  list.replaceChildren(...Array.from({ length: SKELETONS }, bone));
}

export function rest() {
  section.setAttribute("aria-busy", "false");
  running.classList.remove("on");
  more.disabled = false;
  list.querySelectorAll(".skeleton").forEach((bone) => bone.remove());
}

/** Another search's hits, or this one's in a better order (`refined`: who moved up is marked). */
export function tell({ hits, more: further, confident, timings_ms: timings }, { explained, refined = false }) {
  rest();
  groups.replaceChildren();
  const focused = document.activeElement;
  const ranks = new Map([...cards.keys()].map((item, at) => [item, at]));
  const places = new Map([...cards].map(([item, element]) => [item, element.getBoundingClientRect()]));
  scale = Math.max(1, ...hits.map(({ score }) => score));
  held = new Map(hits.map((hit) => [hit.item, hit]));
  cards = new Map(hits.map((hit) => [hit.item, updated(cards.get(hit.item) ?? card(hit), hit, explained)]));
  list.replaceChildren(...cards.values());
  if (list.contains(focused)) focused.focus({ preventScroll: true }); // who moves loses it
  hits.forEach(({ item }, at) => {
    const up = refined && ranks.has(item) ? ranks.get(item) - at : 0;
    mark(cards.get(item), "climbed", up > 0 && climbed(up));
    mark(cards.get(item), "badge", confident && at === 0 && make("span", { class: "badge" }, "Best match"));
    glide(cards.get(item), at, places.get(item), refined);
  });
  more.hidden = !further;
  summary.textContent = hits.length ? `${hits.length}${further ? " closest" : ""}${took(timings)}` : "";
  if (!hits.length) say("Nothing here fits. Fewer filters or other words may help.");
  else if (confident === false) say("No confident match. These come closest, but none of them stands out.", "unsure");
  else say("");
}

/** Hits of each region by itself: [{box, name, crop, hits, more, confident}], each a group with a heading. */
export function tellGroups(found, timings) {
  empty();
  rest();
  say("");
  summary.textContent = `${found.length} regions${took(timings)}`;
  scale = Math.max(1, ...found.flatMap(({ hits }) => hits.map(({ score }) => score)));
  groups.replaceChildren(...found.map(group));
}

function group({ box, name, crop, hits, more: further, confident }, at) {
  const made = hits.map((hit) => updated(card(hit, () => [hit, box]), hit, true, () => [hit, box]));
  if (confident && made.length) mark(made[0], "badge", make("span", { class: "badge" }, "Best match"));
  const doubt = hits.length ? (confident === false ? "No confident match" : "") : "Nothing here fits";
  const all = make("button", { type: "button", class: "button small", on: { click: () => act.onRegion(box) } }, "All hits", make("span", { class: "out-of-sight" }, ` for ${name}`));
  const heading = make("h3", { id: `group-${at}` }, crop ?? icon("whole"), name);
  return make(
    "section",
    { class: "group", "aria-labelledby": `group-${at}` },
    make("div", { class: "row" }, heading, doubt ? make("p", { class: "note" }, doubt) : null, further ? all : null),
    make("ol", { class: "grid" }, ...made),
  );
}

const took = (timings) => (timings?.total >= 0 ? ` in ${Math.max(1, Math.round(timings.total))} ms` : "");

/** One more page. Hits that are there already are left out: the catalogue may have changed in between. */
export function append({ hits, more: further }, explained) {
  rest();
  const fresh = hits.filter((hit) => !cards.has(hit.item));
  fresh.forEach((hit, at) => {
    held.set(hit.item, hit);
    cards.set(hit.item, updated(card(hit), hit, explained));
    list.append(cards.get(hit.item));
    glide(cards.get(hit.item), at, null, false);
  });
  more.hidden = !further;
  summary.textContent = `${cards.size}${further ? " closest" : ""}`;
  cards.get(fresh[0]?.item)?.querySelector("button").focus();
}

export const count = () => cards.size;

export function empty() {
  [cards, held] = [new Map(), new Map()];
  list.replaceChildren();
  groups.replaceChildren();
  more.hidden = true;
}

/** A line above the hits; `again` offers another try. */
export function say(words, kind = "", again = null) {
  notice.replaceChildren();
  if (!words) return;
  const told = make("p", { class: `notice ${kind}`, role: kind === "wrong" ? "alert" : null }, make("span", {}, words));
  if (again) told.append(make("button", { type: "button", class: "button small", on: { click: again } }, "Try again"));
  notice.append(told);
}

const nameOf = (hit) => hit.title || hit.item;

/** What actions are told of a card: its item's hit in the latest search. */
const latest = (hit) => () => [held.get(hit.item)];

function card(hit, told = latest(hit)) {
  const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("i"));
  const score = make("p", { class: "score" }, make("span", { class: "out-of-sight" }, "Score "), bar, make("span", { class: "number" }));
  return make("li", { class: "card" }, tile(hit, () => act.onItem(...told())), score);
}

/** A card with what this search says of its item. */
function updated(element, hit, explained, told = latest(hit)) {
  const image = element.querySelector("img");
  if (image && image.dataset.place !== hit.picture) image.replaceWith(pictured(hit.picture));
  element.querySelector(".bar i").style.width = `${100 * Math.max(0, hit.score / scale)}%`;
  element.querySelector(".number").textContent = hit.score.toFixed(2);
  const why = element.querySelector(".why");
  if (explained && !why) element.append(whyButton(hit, told));
  if (!explained) why?.remove();
  return element;
}

function whyButton(hit, told) {
  const about = make("span", { class: "out-of-sight" }, `: ${nameOf(hit)}`);
  return make("button", { type: "button", class: "quiet why", on: { click: () => act.onWhy(...told()) } }, "Why this one?", about);
}

/** Put a mark on a card's picture in the place of the last search's. */
function mark(element, kind, sign) {
  element.querySelector(`.${kind}`)?.remove();
  if (sign) element.querySelector(".shot").append(sign);
}

function climbed(places) {
  const words = make("span", { class: "out-of-sight" }, places === 1 ? " place up" : " places up");
  return make("span", { class: "climbed" }, icon("up"), String(places), words);
}

/** An item as a picture to press, with its title and what it costs. */
export function tile(item, onClick) {
  const { price, short } = facts(item.attributes);
  return make(
    "button",
    { type: "button", class: "tile", on: { click: onClick } },
    make("span", { class: "shot" }, pictured(item.picture)),
    make("span", { class: "name" }, nameOf(item)),
    make("span", { class: "facts-line" }, price && make("b", {}, price), short.join(" · ")),
  );
}

export function pictured(place, alt = "", widths = undefined) {
  const image = make("img", { alt, "data-place": place, loading: "lazy", decoding: "async", sizes: "(max-width: 600px) 46vw, 240px" });
  image.addEventListener("load", () => image.classList.add("there"));
  image.addEventListener("error", () => image.replaceWith(make("span", { class: "missing" }, icon("missing"), "No picture")));
  show(image, place, widths);
  return image;
}

/** First, last, invert, play: from where it was to where it is; what is new rises in. */
function glide(element, at, was, refined) {
  if (calm()) return;
  if (!was) {
    element.animate([{ opacity: 0, transform: "translateY(12px)" }, { opacity: 1, transform: "none" }], {
      duration: 360, delay: 22 * Math.min(at, 12), easing: "ease-out", fill: "backwards",
    }); // prettier-ignore
    return;
  }
  const is = element.getBoundingClientRect();
  const [x, y] = [was.left - is.left, was.top - is.top];
  if (!x && !y) return;
  element.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], {
    duration: refined ? 620 : 380, easing: "cubic-bezier(.3, .9, .3, 1)",
  }); // prettier-ignore
}
