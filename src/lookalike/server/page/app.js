// The page: one query, which everything else changes or shows.

import * as api from "./api.js";
import * as boxes from "./boxes.js";
import { browse } from "./browse.js";
import * as caption from "./caption.js";
import { announce, find, transition } from "./elements.js";
import { explainHit } from "./explain.js";
import { countOnSheet, offer } from "./filters.js";
import { openItem } from "./item.js";
import { photos } from "./query.js";
import * as results from "./results.js";

const TOP = 24; // hits of a page
const PATIENCE = 400; // ms after the last letter

const query = { picture: null, box: null, text: "", where: "" };
let about = null; // the catalogue
let running = null; // the search that is under way
let answer = null; // the document that is shown
let said = ""; // of the photo, by the captioner
let typing = 0;

// --- searching ---

/** Search anew with what the query is now. An older search is given up. */
async function search() {
  running?.abort();
  if (!query.picture && !query.text) return start();
  running = new AbortController();
  const { signal } = running;
  enter();
  find("hits-title").textContent = query.picture ? "Looks like it" : "What fits the words";
  results.wait();
  results.say("");
  said = "";
  const captioned = Boolean(query.picture && !query.text && about?.captions_at_query); // words and captions do not mix
  caption.hide();
  const asked = { ...query, caption: captioned };
  let shown = false;
  let pending = captioned;

  const onEvent = (name, told) => {
    if (signal.aborted) return;
    if (name === "hits") {
      shown = true;
      tell(told, asked);
      if (captioned) caption.wait();
    } else if (name === "caption") {
      pending = false;
      said = told.text ?? "";
      caption.tell(told);
    } else if (name === "refined") {
      answer = told;
      results.tell(told, { explained: true, refined: true });
      announce(`In a better order by the description. Closest: ${best(told)}`);
    }
  };
  try {
    await api.search(asked, { offset: 0, top: TOP, signal, onEvent, onWait });
  } catch (error) {
    if (signal.aborted) return;
    if (!shown) fail(error, search);
    else if (pending) caption.tell({ outcome: "failed" }); // the stream broke off: the hits stand
  }
}

function tell(told, asked) {
  answer = told;
  results.tell(told, { explained: Boolean(asked.picture) });
  if (asked.picture) boxes.tell(asked.box ? null : told.regions, told.query.box, told.query.size);
  countOnSheet(told.hits.length);
  const doubt = told.confident === false ? "No confident match. " : "";
  announce(told.hits.length ? `${doubt}${told.hits.length} hits. Closest: ${best(told)}` : "No hits.");
}

const best = ({ hits: [hit] }) => `${hit.title || hit.item}, score ${hit.score.toFixed(2)}.`;

const onWait = (seconds) => results.say(`Many are searching just now. Going on in ${Math.ceil(seconds)} s.`);

function fail(error, again) {
  const known = error instanceof api.Refused;
  if (!known) console.error(error);
  results.rest();
  const stays = error.status === 422; // what is wrong with a query is wrong the next time
  results.say(known ? error.message : "Something went wrong on this page.", "wrong", stays ? null : again);
}

async function more() {
  const { signal } = running;
  results.wait();
  let page = null;
  const captioned = answer.query.caption != null;
  const onEvent = (name, told) => (page = name === "hits" || name === "refined" ? told : page);
  try {
    await api.search({ ...query, caption: captioned }, { offset: answer.offset + TOP, top: TOP, signal, onEvent, onWait });
    if (signal.aborted) return;
    answer = page;
    results.append(page, Boolean(query.picture));
    announce(`${results.count()} hits.`);
  } catch (error) {
    if (!signal.aborted) fail(error, more);
  }
}

// --- the page's two states ---

function enter() {
  if (document.body.dataset.mode === "search") return;
  transition(() => {
    document.body.dataset.mode = "search";
    scrollTo(0, 0);
  });
}

/** Nothing is asked: what is shown is where one begins. */
function start() {
  running = answer = null;
  results.empty();
  results.rest();
  results.say("");
  transition(() => (document.body.dataset.mode = "start"));
}

// --- what the user does ---

async function bring(file) {
  running?.abort(); // its regions are another photo's
  query.picture = file;
  query.box = null;
  find("choose").textContent = "Another photo";
  find("words-label").textContent = "Add words";
  find("words").placeholder = "… but in red";
  document.body.classList.add("pictured");
  results.empty();
  const read = boxes.load(file);
  enter();
  await read;
  search();
}

async function like(place) {
  try {
    bring(await api.picture(place, 1280));
  } catch (error) {
    fail(error, () => like(place));
  }
}

function why(hit) {
  explainHit({ picture: query.picture, image: boxes.shown(), box: answer.query.box, caption: said }, hit);
}

const show = (hit) => openItem(hit.item, hit.picture, { onLike: like, onWhy: hit.sha256 && query.picture ? () => why(hit) : null });

function words() {
  const text = find("words").value.trim();
  clearTimeout(typing);
  if (text === query.text) return;
  query.text = text;
  search();
}

photos(bring, (line) => results.say(line, "wrong"));
boxes.watchBoxes((box) => {
  query.box = box;
  search();
});
results.watchResults({ onItem: show, onWhy: why, onMore: more });
find("words").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(words, PATIENCE);
});
find("words-form").addEventListener("submit", (event) => {
  event.preventDefault();
  words();
});

// --- at first ---

try {
  about = await api.catalogue();
  const count = (number, noun) => `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;
  find("facts").textContent = `${count(about.items, "item")}, ${count(about.pictures, "picture")}`;
  offer(about.filters, (where) => {
    query.where = where;
    if (query.picture || query.text) search();
  });
  await browse(({ item, picture }) => show({ item, picture }));
} catch (error) {
  fail(error, () => location.reload());
}
