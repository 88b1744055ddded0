// "Why this one?": the two regions side by side, lit up where their patches look alike.

import * as api from "./api.js";
import { closable, find, make } from "./elements.js";

const SIDE = 720; // pixels of a drawing's longer side
const SHADE = 0.86; // of what matches least
const GLOW = [255, 196, 92];
const [LOW, HIGH] = [0.2, 0.85]; // likeness of patches that is drawn dark, and fully lit; unlike things have 0.2 to 0.5

const [dialog, body] = ["why", "why-body"].map(find);
let asked = null;

/** Ask and show. `query` is {picture, image, box, caption}; `image` null where the browser cannot show it. */
export async function explainHit(query, hit) {
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  body.replaceChildren(waiting());
  dialog.showModal();
  const fields = {
    item: hit.item, sha256: hit.sha256, box: query.box?.join(","), hit_box: hit.box?.join(","), words: query.caption,
  }; // prettier-ignore
  try {
    const [told, file, item] = await Promise.all([
      api.explain(query.picture, fields, signal),
      api.picture(hit.picture, 640, signal),
      api.item(hit.item, signal),
    ]);
    const theirs = await createImageBitmap(file);
    const original = item.pictures.find(({ sha256 }) => sha256 === hit.sha256);
    const scale = original ? theirs.width / original.width : 1;
    if (!signal.aborted) draw(query, hit, told, theirs, scale);
  } catch (error) {
    if (error.name !== "AbortError") body.replaceChildren(make("p", { class: "notice wrong", role: "alert" }, error.message));
  }
}

dialog.addEventListener("close", () => asked?.abort());
closable(dialog);

function waiting() {
  const bone = () => make("div", { class: "shot skeleton" });
  return make("div", { class: "pair", "aria-hidden": "true" }, bone(), bone());
}

function draw(query, hit, told, theirs, scale) {
  const name = hit.title || hit.item;
  const drawings = [
    drawn("Your photo", query.image, told.query.box, 1, told.query.patches),
    drawn(name, theirs, told.hit.box, scale, told.hit.patches),
  ];
  const legend = make("p", { class: "legend" }, "Less alike", make("i", { "aria-hidden": "true" }), "More alike");
  const { shared, theirs: only } = told.words;
  body.replaceChildren(
    make("p", { class: "note" }, `Lit up: what each picture shows that the other shows too. Score ${hit.score.toFixed(2)}.`),
    make("div", { class: "pair" }, ...drawings),
    legend,
    ...words("Said of both", shared, ""),
    ...words("Said of this one only", only, "plain"),
  );
}

const words = (title, list, kind) =>
  list.length
    ? [make("h3", {}, title), make("ul", { class: "claims" }, ...list.map((word) => make("li", { class: `claim ${kind}` }, word)))]
    : [];

/** A region of a picture with its patches over it. `scale` takes the box to the image's own pixels. */
function drawn(name, image, box, scale, patches) {
  const lit = patches.map((row) => row.map((value) => Math.min(1, Math.max(0, (value - LOW) / (HIGH - LOW)))));
  const [x0, y0, x1, y1] = box?.map((corner) => corner * scale) ?? [0, 0, ...sides(image, lit)];
  const fit = SIDE / Math.max(x1 - x0, y1 - y0);
  const [width, height] = [Math.round((x1 - x0) * fit), Math.round((y1 - y0) * fit)];
  const canvas = make("canvas", { width, height, role: "img", "aria-label": `${name}. Matched best: ${place(lit)}.` });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  if (image) pen.drawImage(image, x0, y0, x1 - x0, y1 - y0, 0, 0, width, height);
  pen.drawImage(layer(lit, (heat) => [12, 12, 14, SHADE * (1 - heat) ** 0.8]), 0, 0, width, height);
  pen.globalCompositeOperation = "soft-light";
  pen.drawImage(layer(lit, (heat) => [...GLOW, 0.75 * heat ** 2]), 0, 0, width, height);
  return make("figure", {}, canvas, make("figcaption", {}, name));
}

const sides = (image, lit) => (image ? [image.naturalWidth ?? image.width, image.naturalHeight ?? image.height] : [lit[0].length, lit.length]);

/** One pixel a patch, to be drawn large and smooth. */
function layer(lit, colour) {
  const [height, width] = [lit.length, lit[0].length];
  const pixels = new ImageData(width, height);
  lit.flat().forEach((heat, at) => {
    const [red, green, blue, alpha] = colour(heat);
    pixels.data.set([red, green, blue, Math.round(255 * alpha)], 4 * at);
  });
  const canvas = make("canvas", { width, height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** Where the brightest tenth of the patches lies, in words. */
function place(lit) {
  const [height, width] = [lit.length, lit[0].length];
  const patches = lit.flatMap((row, y) => row.map((heat, x) => ({ heat, x: (x + 0.5) / width, y: (y + 0.5) / height })));
  const best = patches.toSorted((one, other) => other.heat - one.heat).slice(0, Math.max(1, patches.length / 10));
  const middle = (axis) => best.reduce((sum, patch) => sum + patch[axis], 0) / best.length;
  const third = (part, names) => names[Math.min(2, Math.floor(3 * part))];
  const where = [third(middle("y"), ["top", "", "bottom"]), third(middle("x"), ["left", "", "right"])].filter(Boolean);
  return where.join(" ") || "the middle";
}
