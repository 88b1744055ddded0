// One item: all of its pictures, what is known of it, and where to go from there.

import * as api from "./api.js";
import { claimed } from "./caption.js";
import { closable, find, icon, make, named, priced, told } from "./elements.js";
import { pictured } from "./results.js";

const [dialog, body] = ["item", "item-body"].map(find);
let asked = null;

/** Show an item; `first` is the picture to begin with. `onLike(place)` searches with a picture of it. */
export async function openItem(id, first, { onLike, onWhy = null }) {
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  body.replaceChildren(make("div", { class: "shot skeleton" }), make("h2", { id: "item-title", class: "skeleton" }, "An item"));
  if (!dialog.open) dialog.showModal();
  try {
    const item = await api.item(id, signal);
    if (!signal.aborted) draw(item, first, { onLike, onWhy });
  } catch (error) {
    if (error.name === "AbortError") return;
    body.replaceChildren(make("h2", { id: "item-title" }, id), make("p", { class: "notice wrong", role: "alert" }, error.message));
  }
}

dialog.addEventListener("close", () => {
  asked?.abort();
  body.replaceChildren();
});
closable(dialog);

function draw(item, first, { onLike, onWhy }) {
  const name = item.title || item.item;
  const gallery = pictures(item, name, first);
  const { price, rest } = priced(item.attributes);
  const like = () => {
    dialog.close();
    onLike(item.pictures[gallery.at()].picture);
  };
  const why = () => {
    dialog.close();
    onWhy();
  };
  const about = make(
    "div",
    { class: "about" },
    make("h2", { id: "item-title" }, name),
    price ? make("p", { class: "price" }, price) : null,
    make(
      "div",
      { class: "buttons" },
      item.pictures.length ? button("primary", "search", "More like this", like) : null,
      onWhy ? button("", null, "Why this one?", why) : null,
    ),
    gallery.said,
    table([...rest, ["Item", item.item]]),
  );
  body.replaceChildren(gallery.element, about);
}

const button = (kind, drawing, words, onClick) =>
  make("button", { type: "button", class: `button ${kind}`, on: { click: onClick } }, drawing && icon(drawing), words);

function table(entries) {
  const long = ([, value]) => told(value).length > 60;
  const rows = entries.filter((entry) => !long(entry)).map(([name, value]) => make("div", {}, make("dt", {}, named(name)), make("dd", {}, told(value))));
  const texts = entries.filter(long).map(([, value]) => make("p", { class: "prose" }, told(value)));
  return make("div", {}, ...texts, make("dl", {}, ...rows));
}

/** The pictures, one large and the others to choose from; what captions say of the large one. */
function pictures(item, name, first) {
  const list = item.pictures;
  let at = Math.max(0, list.findIndex(({ picture }) => picture === first));
  const large = make("div", { class: "large" });
  const said = make("div", { class: "said" });
  const thumbs = list.map(({ picture }, place) =>
    make("button", { type: "button", class: "thumb", "aria-label": `Picture ${place + 1} of ${list.length}`, on: { click: () => go(place) } },
      pictured(picture, "", [160])),
  ); // prettier-ignore
  const strip = make("div", { class: "strip", role: "group", "aria-label": "Pictures of this item" }, ...thumbs);
  const go = (place) => {
    at = (place + list.length) % list.length;
    const { picture, width, height, regions } = list[at];
    const image = pictured(picture, `${name}, picture ${at + 1} of ${list.length}`, [640, 1280]);
    image.sizes = "(max-width: 859px) 100vw, 560px";
    image.loading = "eager";
    [image.width, image.height] = [width, height];
    large.replaceChildren(image);
    thumbs.forEach((thumb, place) => thumb.setAttribute("aria-pressed", String(place === at)));
    said.replaceChildren(...regions.filter(({ caption }) => caption).flatMap(captioned));
  };
  const element = make("div", { class: "gallery" }, large);
  if (list.length > 1) {
    element.append(strip);
    element.addEventListener("keydown", ({ key }) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
      if (!step) return;
      go(at + step);
      thumbs[at].focus();
    });
  }
  if (list.length) go(at);
  else large.append(make("span", { class: "missing" }, icon("missing"), "No picture"));
  return { element, said, at: () => at };
}

const captioned = ({ caption, claims = [] }) => [
  make("p", { class: "prose" }, typeof caption === "string" ? caption : caption.text),
  make("ul", { class: "claims" }, ...claims.map(claimed)),
];
