// What a captioner says of the photo, and which of it is believed.

import { find, icon, make } from "./elements.js";

const [panel, text, claims, note] = ["caption", "caption-text", "claims", "caption-note"].map(find);

const NOTES = {
  refined: "The hits were put in order anew by it.",
  unchanged: "It changes nothing in the hits.",
  sure: "The hits were clear enough without.",
  late: "It came too late for these hits.",
  failed: "It could not be had; the hits stand as they are.",
  "nothing said": "Nothing of it is believed, so the hits stand as they are.",
};

export const hide = () => (panel.hidden = true);

export function wait() {
  panel.hidden = false;
  panel.classList.add("waiting");
  text.textContent = "Looking closely";
  note.textContent = "";
  claims.replaceChildren();
}

export function tell(caption) {
  panel.hidden = false;
  panel.classList.remove("waiting");
  text.textContent = caption.text ?? "";
  claims.replaceChildren(...(caption.claims ?? []).map(claimed));
  note.textContent = NOTES[caption.outcome] ?? "";
  note.classList.toggle("trouble", !caption.text);
}

/** A caption's words one by one; those that are not believed are struck out, and said to be. */
export function claimed({ text: words, believed }) {
  if (believed) return make("li", { class: "claim" }, icon("check"), words);
  return make("li", { class: "claim doubted" }, make("s", {}, words), make("span", { class: "out-of-sight" }, " (not believed)"));
}
