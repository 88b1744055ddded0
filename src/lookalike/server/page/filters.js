// Filters: what the catalogue's attributes offer, and the expression that asks for what was chosen.

import { closable, find, make, named } from "./elements.js";

const LONGEST = 40; // characters of a value that fits on a chip
const OPEN = 2; // facets that are unfolded at first
const PATIENCE = 450; // ms after the last key
const PLAIN = /^[a-z_][a-z0-9_]*$/i;
const WORDS = new Set(["or", "and", "not", "has", "in", "between", "like", "true", "false"]);

const [panel, facets, clear, sheet, opener, done] = [
  "filters", "facets", "clear-filters", "sheet", "open-sheet", "sheet-done",
].map(find); // prettier-ignore
const home = panel.parentElement;
const narrow = matchMedia("(max-width: 859px)");
let timer = 0;

/** Offer filters; `onWhere(expression)` is told each time another is chosen, "" for none. */
export function offer(filters, onWhere) {
  const usable = Object.entries(filters).filter(([name, { kind, values }]) => {
    const fits = kind === "number" || values.every((value) => String(value).length <= LONGEST); // no prose
    return fits && !name.includes("`"); // which no expression can name
  });
  const numbersFirst = (one, other) => (other.kind === "number") - (one.kind === "number");
  usable.sort(([, one], [, other]) => numbersFirst(one, other) || other.items - one.items);
  facets.replaceChildren(...usable.map(([name, facet], at) => folded(name, facet, at < OPEN)));
  panel.hidden = !usable.length;

  const tell = () => {
    const chosen = [...facets.children].map(condition).filter(Boolean);
    clear.hidden = !chosen.length;
    find("open-sheet-text").textContent = chosen.length ? `Filters (${chosen.length})` : "Filters";
    onWhere(chosen.join(" and "));
  };
  facets.addEventListener("change", tell);
  facets.addEventListener("input", ({ target }) => {
    clearTimeout(timer);
    if (target.type === "number") timer = setTimeout(tell, PATIENCE);
  });
  clear.addEventListener("click", () => {
    facets.querySelectorAll("input").forEach((input) => {
      if (input.type === "number") input.value = "";
      else input.checked = false;
    });
    tell();
    facets.querySelector("summary").focus();
  });
  settle();
  narrow.addEventListener("change", settle);
}

/** On a phone the filters are in a sheet that comes up from below; elsewhere they are in the panel. */
function settle() {
  if (sheet.open) sheet.close();
  (narrow.matches ? find("sheet-body") : home).append(panel);
  opener.hidden = panel.hidden;
}

opener.addEventListener("click", () => sheet.showModal());
closable(sheet);

export const countOnSheet = (count) => (done.textContent = count === 1 ? "Show 1 hit" : `Show ${count} hits`);

// --- making facets ---

function folded(name, { kind, values }, open) {
  const body = { text: texts, number: numbers, boolean: booleans }[kind](name, values);
  return make("details", { open, "data-name": name, "data-kind": kind }, make("summary", {}, named(name)), body);
}

function texts(name, values) {
  return group(name, values.map((value) => check(value, value)));
}

const booleans = (name) => group(name, [check("true", "Yes"), check("false", "No")]);

function numbers(name, values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const end = (which, example) =>
    make("label", {}, which, make("input", {
      type: "number", step: "any", inputmode: "decimal", placeholder: Number.isFinite(example) ? String(example) : "",
    })); // prettier-ignore
  return group(name, [end("From", low), end("To", high)], "range");
}

const group = (name, inside, kind = "chips") =>
  make("fieldset", { class: kind }, make("legend", { class: "out-of-sight" }, named(name)), ...inside);

const check = (value, words) =>
  make("label", { class: "chip" }, make("input", { type: "checkbox", value, class: "out-of-sight" }), words);

// --- reading them ---

function condition(facet) {
  const name = quotedName(facet.dataset.name);
  if (facet.dataset.kind === "number") {
    const [low, high] = [...facet.querySelectorAll("input")].map((input) => input.value);
    const parts = [low && `${name} >= ${low}`, high && `${name} <= ${high}`];
    return parts.filter(Boolean).join(" and ");
  }
  const chosen = [...facet.querySelectorAll("input:checked")].map((input) => input.value);
  if (!chosen.length) return "";
  if (facet.dataset.kind === "boolean") return chosen.length === 1 ? `${name} = ${chosen[0]}` : `has ${name}`;
  return chosen.length === 1 ? `${name} = ${quoted(chosen[0])}` : `${name} in (${chosen.map(quoted).join(", ")})`;
}

const quotedName = (name) => (PLAIN.test(name) && !WORDS.has(name.toLowerCase()) ? name : `\`${name}\``);

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
