// Making elements. What comes from the server is only ever text: nothing here reads markup.

export const find = (id) => document.getElementById(id);

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** An element: `about` holds attributes, `on` listeners by event; children are nodes or text. */
export function make(kind, about = {}, ...children) {
  const { on = {}, ...attributes } = about;
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  for (const [event, listener] of Object.entries(on)) made.addEventListener(event, listener);
  made.append(...children.filter((child) => child != null));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `page/icons.svg#${name}`);
  drawing.append(use);
  return drawing;
}

/** Tell a screen reader, politely. The same words twice are told twice. */
export function announce(text) {
  const status = find("status");
  status.textContent = "";
  setTimeout(() => (status.textContent = text), 60);
}

/** Change the page; where the browser can and the user has not asked for calm, it moves there. */
export function transition(change) {
  if (!document.startViewTransition || calm()) change();
  else document.startViewTransition(change).ready.catch(() => {}); // skipped, the change is made all the same
}

/** Dialogs close by their buttons and by a click beside them; Escape is the browser's. */
export function closable(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-closes]")) dialog.close();
  });
}

/** One line of an item's attributes for people: the price first; long texts are left to the item's own page. */
export function facts(attributes) {
  const { price, rest } = priced(attributes);
  const short = rest
    .filter(([, value]) => typeof value !== "boolean" && typeof value !== "number")
    .map(([, value]) => told(value))
    .filter((text) => text && text.length <= 28);
  return { price, short: short.slice(0, 3) };
}

/** The price as money, and the other attributes as [name, value]. */
export function priced(attributes) {
  const entries = Object.entries(attributes ?? {});
  const found = entries.find(([name, value]) => /^(price|preis|prix|precio)$/i.test(name) && Number.isFinite(value));
  const currency = String(attributes?.currency ?? "");
  return {
    price: found ? money(found[1], currency) : "",
    rest: entries.filter(([name]) => name !== found?.[0] && !(found && name === "currency")),
  };
}

function money(amount, currency) {
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  const known = /^[A-Za-z]{3}$/.test(currency);
  return new Intl.NumberFormat(undefined, known ? { style: "currency", currency } : digits).format(amount);
}

/** A value of an attribute as text. */
export function told(value) {
  if (Array.isArray(value)) return value.map(told).join(", ");
  if (typeof value === "boolean") return value ? "yes" : "no";
  return String(value);
}

/** An attribute's name for people: "in_stock" is "In stock"; "seen_" means that captions say so. */
export function named(name) {
  const seen = name.startsWith("seen_");
  const words = (seen ? name.slice(5) : name).replace(/[_\s]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1) + (seen ? " (as seen)" : "");
}
