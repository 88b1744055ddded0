// What the page asks the server.

import { askForKey, key } from "./key.js";

const PATIENCE = 20; // seconds: a longer Retry-After is told, not waited for
const TRIES = 4;

/** A refusal as one readable line. */
export class Refused extends Error {
  constructor(status, line) {
    super(line);
    this.status = status;
  }
}

const here = (path) => path.replace(/^\//, ""); // relative, so that a proxy may serve us under any path

/**
 * A response that is ok, or a Refused. Asks for a key where the server wants one. Waits where it says when to
 * come back: `onWait(seconds)` is told, and `signal` ends the waiting as it ends the request.
 */
export async function call(path, options = {}, onWait = () => {}) {
  for (let tries = 1; ; tries += 1) {
    const used = key();
    const response = await sent(path, options, used);
    if (response.ok) return response;
    if (response.status === 401 && (await askForKey(used))) continue;
    const seconds = Number(response.headers.get("retry-after") ?? NaN);
    const busy = response.status === 429 || response.status === 503;
    if (!busy || !(seconds <= PATIENCE) || tries === TRIES) throw await refusal(response, seconds);
    onWait(seconds);
    await pause(Math.max(1, seconds) * 1000, options.signal);
  }
}

async function sent(path, options, used) {
  const headers = { ...options.headers };
  if (used) headers.Authorization = `Bearer ${used}`;
  try {
    return await fetch(here(path), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service does not answer. Check the connection, then try again.");
  }
}

async function refusal(response, seconds) {
  const problem = await response.json().catch(() => ({}));
  const parts = [problem.detail || problem.title || `The service answered ${response.status}`, problem.hint];
  if (seconds > 0) parts.push(`try again in ${duration(seconds)}`);
  const line = parts.filter(Boolean).map((part) => String(part).trim().replace(/\.$/, ""));
  return new Refused(response.status, sentence(line.join("; ")));
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

const duration = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`);

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("superseded", "AbortError"));
    });
  });
}

/** The events of a stream as [name, document], as they arrive. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const field = (name) =>
        block
          .split("\n")
          .filter((line) => line.startsWith(`${name}:`))
          .map((line) => line.slice(name.length + 1).trimStart())
          .join("\n");
      if (field("data")) yield [field("event") || "message", JSON.parse(field("data"))];
    }
  }
}

/**
 * Search with pictures, a box in the only one or `each` region of it, words, a filter. `onEvent(name, document)` is told "hits" at once and,
 * with `query.caption`, "caption" and "refined" when they come.
 */
export async function search(query, { offset, top, signal, onEvent, onWait }) {
  const fields = { box: query.box?.join(","), text: query.text, where: query.where, offset, top };
  if (query.each) fields.regions = "each";
  if (query.caption) fields.caption = "true";
  const body = form(query.pictures, fields);
  const headers = { Accept: query.caption ? "text/event-stream" : "application/json" };
  const response = await call("v1/search", { method: "POST", body, headers, signal }, onWait);
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
    onEvent("hits", await response.json());
    return;
  }
  for await (const [name, told] of events(response)) onEvent(name, told);
}

export async function explain(picture, fields, signal) {
  const response = await call("v1/explain", { method: "POST", body: form([picture], fields), signal });
  return response.json();
}

/** A form with the pictures' bytes as they are, under no name: the server has no use for it. */
function form(pictures, fields) {
  const body = new FormData();
  for (const picture of pictures) body.append("picture", picture, "picture");
  for (const [name, value] of Object.entries(fields)) if (value != null && value !== "") body.append(name, value);
  return body;
}

export const catalogue = async () => (await call("v1/catalogue")).json();

export const item = async (id, signal) => (await call(`v1/items/${encodeURIComponent(id)}`, { signal })).json();

export const items = async (limit) => (await call(`v1/items?limit=${limit}`)).json();

/** A picture of the catalogue as a file, `width` pixels across. */
export const picture = async (place, width, signal) => (await call(`${place}?width=${width}`, { signal })).blob();

/** Show a picture of the catalogue in an <img>. One that needs a key cannot be asked for by the browser itself. */
export async function show(image, place, widths = [320, 640]) {
  if (!key()) {
    image.srcset = widths.map((width) => `${here(place)}?width=${width} ${width}w`).join(", ");
    image.src = `${here(place)}?width=${widths[0]}`;
    return;
  }
  try {
    image.src = URL.createObjectURL(await picture(place, widths.at(-1)));
    await image.decode();
  } catch {
    image.dispatchEvent(new Event("error"));
  }
  URL.revokeObjectURL(image.src);
}
