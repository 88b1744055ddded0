// The API's description, read out of /openapi.json.

import { announce, find, icon, make } from "./elements.js";

const METHODS = ["get", "post", "put", "delete"];
const SHIFT = "  ";
const DEEPEST = 4;
const SAID = { "Successful Response": "as asked", "Validation Error": "the request is not understood" }; // in our words
let schemas = {};

// --- schemas in words ---

const nameOf = (reference) => reference.split("/").at(-1);

const followed = (schema) => (schema?.$ref ? schemas[nameOf(schema.$ref)] : schema) ?? {};

const branches = (schema) => schema.anyOf ?? schema.oneOf ?? [schema];

/** What a value may be, in words. `depth` ends what names itself. */
function kind(schema, depth = 0) {
  if (depth > DEEPEST) return "…";
  const inner = (each) => kind(each, depth + 1);
  if (schema.$ref) return inner(followed(schema));
  if (schema.anyOf || schema.oneOf) {
    const kinds = branches(schema).filter(({ type }) => type !== "null").map(inner);
    return [...new Set(kinds)].join(" or ");
  }
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.prefixItems) return `[${schema.prefixItems.map(inner).join(", ")}]`;
  if (schema.type === "array") return schema.items ? `list of ${inner(schema.items)}` : "list";
  if (schema.type === "string" && (schema.format === "binary" || schema.contentMediaType)) return "file";
  if (schema.type === "string" && schema.contentEncoding) return schema.contentEncoding;
  if (schema.properties) return `{${Object.entries(schema.properties).map(([name, each]) => `${name}: ${inner(each)}`).join(", ")}}`;
  return { integer: "whole number", string: "text", boolean: "true or false" }[schema.type] ?? schema.type ?? "anything";
}

/** What else is asked of a value. */
function limits(schema) {
  const told = [];
  for (const each of branches(schema).map(followed)) {
    const { minimum: low, maximum: high, minLength, maxLength, maxItems, pattern } = each;
    if (low !== undefined && high !== undefined) told.push(`${low} to ${high.toLocaleString()}`);
    else if (low !== undefined) told.push(`at least ${low}`);
    else if (high !== undefined) told.push(`at most ${high}`);
    if (minLength) told.push(`at least ${minLength} characters`);
    if (maxLength) told.push(`at most ${maxLength.toLocaleString()} characters`);
    if (maxItems && !each.prefixItems) told.push(`at most ${maxItems.toLocaleString()}`);
    if (pattern) told.push(`matches ${pattern}`);
  }
  const usual = schema.default;
  if (usual !== undefined && usual !== null && usual !== "") told.push(`${JSON.stringify(usual)} where not given`);
  const example = [schema, ...branches(schema)].flatMap(({ examples = [] }) => examples)[0];
  if (example !== undefined) told.push(`such as ${typeof example === "string" ? example : JSON.stringify(example)}`);
  return told.join("; ");
}

function inText(schema) {
  const about = schema.description ?? branches(schema).map(followed).find(({ description }) => description)?.description;
  return [sentence(about), sentence(limits(schema))].filter(Boolean).join(" ");
}

const sentence = (text) => (text ? `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, "")}.` : "");

/** Text with its `code` set as such. */
const prose = (text) => text.split(/`+([^`]+)`+/).map((part, at) => (at % 2 ? make("code", {}, part) : part));

const paragraphs = (text = "") => text.split(/\n\s*\n/).filter((part) => part.trim()).map((part) => make("p", {}, ...prose(part.replace(/\s*\n\s*/g, " ").trim())));

// --- an endpoint ---

function table(title, fields) {
  if (!fields.length) return [];
  const head = make("tr", {}, ...["Name", "Kind", "About"].map((name) => make("th", { scope: "col" }, name)));
  const rows = fields.map(({ name, schema, required, description }) =>
    make("tr", {},
      make("td", {}, name, required ? make("span", { class: "needed" }, "needed") : null),
      make("td", {}, kind(schema)),
      make("td", {}, ...prose(inText({ ...schema, description: description ?? schema.description }))),
    ),
  ); // prettier-ignore
  const rules = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return [make("h4", {}, title), make("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": title }, rules)];
}

const TITLES = { "multipart/form-data": "Form fields", "application/json": "JSON", "application/x-ndjson": "JSON lines" };

function fieldsOf(schema) {
  const { properties = {}, required = [] } = followed(schema);
  return Object.entries(properties).map(([name, each]) => ({ name, schema: { ...followed(each), ...each }, required: required.includes(name) }));
}

function endpoint(path, method, operation) {
  const { parameters = [], requestBody, responses = {}, summary, description } = operation;
  const bodies = Object.entries(requestBody?.content ?? {});
  const places = { path: "In the path", query: "In the address, after ?", header: "Headers" };
  const given = Object.entries(places).flatMap(([place, title]) =>
    table(title, parameters.filter((each) => each.in === place).map((each) => ({ ...each, schema: each.schema ?? {} }))),
  ); // prettier-ignore
  const answers = Object.entries(responses).map(([status, answer]) => make("li", {}, make("b", {}, status), ` ${SAID[answer.description] ?? answer.description}`));
  const text = description ? paragraphs(description) : paragraphs(summary);
  return make(
    "article",
    { class: "endpoint", id: anchor(path, method) },
    make("h3", {}, badge(method), path),
    ...text,
    command(path, method, operation, bodies[0]),
    ...given,
    ...bodies.flatMap(([media, body]) => table(TITLES[media] ?? media, fieldsOf(body.schema))),
    make("h4", {}, "Answers"),
    make("ul", { class: "statuses" }, ...answers),
  );
}

const badge = (method) => make("span", { class: `method ${method}` }, method.toUpperCase());

const anchor = (path, method) => `${method}${path.replace(/[^a-z0-9]+/gi, "-")}`.replace(/-$/, "");

// --- what to type ---

/** A curl command that asks for this endpoint; capitals stand for what to fill in. */
function command(path, method, { security, parameters = [] }, body) {
  const address = new URL(path.slice(1).replace(/\{(\w+)\}/g, (_, name) => name.toUpperCase()), document.baseURI);
  const asked = parameters.filter((each) => each.in === "query" && each.required).map(({ name }) => `${name}=${name.toUpperCase()}`);
  const lines = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${quoted(address.href + (asked.length ? `?${asked.join("&")}` : ""))}`];
  if (security?.length) lines.push('-H "Authorization: Bearer $KEY"');
  if (body) lines.push(...sending(...body));
  const text = lines.join(` \\\n${SHIFT}`);
  const copy = make("button", { type: "button", class: "icon-button", "aria-label": `Copy the command for ${method.toUpperCase()} ${path}`, on: { click: () => copied(text) } }, icon("copy"));
  return make("div", { class: "command" }, make("pre", { tabindex: "0", role: "group", "aria-label": "Command" }, text), copy);
}

function sending(media, { schema = {}, example, examples = {} }) {
  const shown = example ?? Object.values(examples)[0]?.value;
  const needed = fieldsOf(schema).filter((field) => field.required || field.name in (shown ?? {}) || kind(field.schema).endsWith("file"));
  if (media === "multipart/form-data") {
    return needed.map(({ name, schema: each }) => {
      if (kind(each).endsWith("file")) return `-F ${name}=@photo.jpg`;
      const value = shown?.[name] ?? each.examples?.[0] ?? name.toUpperCase();
      return `-F ${quoted(`${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)}`;
    });
  }
  if (media === "application/json") {
    const filled = shown ?? Object.fromEntries(needed.map(({ name, schema: each }) => [name, sample(each)]));
    return [`--json ${quoted(JSON.stringify(filled))}`];
  }
  return [`-H ${quoted(`Content-Type: ${media}`)}`, "--data-binary @file"];
}

function sample(schema) {
  const first = followed(branches(schema)[0]);
  return schema.examples?.[0] ?? schema.default ?? first.enum?.[0] ?? { integer: 1, number: 1, boolean: true, array: [], object: {} }[first.type] ?? "words";
}

const quoted = (text) => (/^[\w./:@=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied.");
  } catch {
    announce("The browser does not let this page copy.");
  }
}

// --- the whole ---

function draw({ info = {}, paths, components = {} }) {
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    METHODS.filter((method) => methods[method]).map((method) => ({ path, method, operation: methods[method] })),
  ); // prettier-ignore
  const local = operations.flatMap(({ operation }) => Object.values(operation.requestBody?.content ?? {})).map(({ schema }) => schema?.$defs);
  schemas = Object.assign({}, ...local, components.schemas);
  const groups = Map.groupBy(operations, ({ operation }) => operation.tags?.[0] ?? "other");
  const about = info.description ?? info.summary;
  if (about) find("lead").prepend(`${sentence(about)} `);
  for (const [tag, inside] of groups) {
    const title = tag.charAt(0).toUpperCase() + tag.slice(1);
    const links = inside.map(({ path, method }) => make("a", { href: `docs#${anchor(path, method)}` }, badge(method), path.replace(/^\/v1/, "")));
    find("index").append(make("h2", {}, title), ...links);
    const articles = inside.map(({ path, method, operation }) => endpoint(path, method, operation));
    find("endpoints").append(make("section", {}, make("h2", {}, title), ...articles));
  }
  find("endpoints").setAttribute("aria-busy", "false");
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

try {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`openapi.json answers ${response.status}`);
  draw(await response.json());
} catch (error) {
  find("endpoints").append(make("p", { class: "notice wrong", role: "alert" }, `The description cannot be read: ${error.message}.`));
}
