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
import * as views from "./views.js";

const TOP = 24; // hits of a page
const TOP_OF_EACH = 6; // hits of a region, where each is searched by itself
const PATIENCE = 400; // ms after the last letter

const query = { pictures: [], box: null, each: false, text: "", where: "" };
let about = null; // the catalogue
let running = null; // the search that is under way
let answer = null; // the document that is shown
let said = ""; // of the photo, by the captioner
let typing = 0;

// --- searching ---

/** Search anew with what the query is now. An older search is given up. */
async function search() {
  running?.abort();
  if (!query.pictures.length && !query.text) return start();
  running = new AbortController();
  const { signal } = running;
  enter();
  find("hits-title").textContent = title();
  results.wait();
  results.say("");
  said = "";
  const alone = query.pictures.length === 1 && !query.each && !query.text; // a caption mixes with nothing else
  const captioned = Boolean(alone && about?.captions_at_query);
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
    await api.search(asked, { offset: 0, top: query.each ? TOP_OF_EACH : TOP, signal, onEvent, onWait });
  } catch (error) {
    if (signal.aborted) return;
    if (!shown) fail(error, search);
    else if (pending) caption.tell({ outcome: "failed" }); // the stream broke off: the hits stand
  }
}

const title = () => {
  if (query.each) return "Each by itself";
  return query.pictures.length ? "Looks like it" : "What fits the words";
};

function tell(told, asked) {
  answer = told;
  if (asked.pictures.length === 1) boxes.tell(asked.box ? null : told.regions, told.query.box, told.query.size, asked.each);
  if (told.groups) return tellGroups(told);
  results.tell(told, { explained: asked.pictures.length > 0 });
  countOnSheet(told.hits.length);
  const doubt = told.confident === false ? "No confident match. " : "";
  announce(told.hits.length ? `${doubt}${told.hits.length} hits. Closest: ${best(told)}` : "No hits.");
}

function tellGroups(told) {
  const groups = told.groups.map((group) => ({ ...group, ...boxes.about(group.box) }));
  results.tellGroups(groups, told.timings_ms);
  countOnSheet(groups.reduce((count, { hits }) => count + hits.length, 0));
  const lines = groups.map((group) => `${group.name}: ${group.hits.length ? best(group) : "no hits."}`);
  announce(`Hits for ${groups.length} regions. ${lines.join(" ")}`);
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
    results.append(page, query.pictures.length > 0);
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

/** The photos are others than before: what was found on the last ones says nothing of them. */
async function look() {
  running?.abort();
  Object.assign(query, { pictures: views.all(), box: null, each: false });
  find("choose").textContent = "Another photo";
  find("words-label").textContent = "Add words";
  find("words").placeholder = "… but in red";
  document.body.classList.add("pictured");
  results.empty();
  const read = boxes.load(views.shown(), query.pictures.length === 1);
  const { pictures } = query;
  enter();
  await read;
  if (pictures === query.pictures) search();
}

async function like(place) {
  try {
    views.take([await api.picture(place, 1280)]);
  } catch (error) {
    fail(error, () => like(place));
  }
}

/** `box` is where the hit was found by; of other views than the first the answer says nothing. */
function why(hit, box = views.first() ? answer.query.box : null) {
  explainHit({ picture: views.shown(), image: boxes.shown(), box, caption: said }, hit);
}

function show(hit, box) {
  const explained = hit.sha256 && query.pictures.length;
  openItem(hit.item, hit.picture, { onLike: like, onWhy: explained ? () => why(hit, box) : null });
}

function words() {
  const text = find("words").value.trim();
  clearTimeout(typing);
  if (text === query.text) return;
  query.text = text;
  search();
}

const onTrouble = (line) => results.say(line, "wrong");
photos({ onPhotos: views.take, onMore: views.add, onTrouble });
views.watchViews({ onLook: () => boxes.load(views.shown(), false), onChange: look, onTrouble });
boxes.watchBoxes({
  onBox: (box) => {
    Object.assign(query, { box, each: false });
    search();
  },
  onEach: () => {
    Object.assign(query, { box: null, each: true });
    search();
  },
});
results.watchResults({ onItem: show, onWhy: why, onMore: more, onRegion: boxes.chooseRegion });
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
    if (query.pictures.length || query.text) search();
  });
  await browse(({ item, picture }) => show({ item, picture }));
} catch (error) {
  fail(error, () => location.reload());
}
