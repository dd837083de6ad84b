// A list of jobs; its filters and its page are in the address.

import { get } from "./api.js";
import { badge, button, code, field, h, input, moment, refresh, select, setText, text } from "./dom.js";
import { poll } from "./polling.js";
import { VIEWS, jobs } from "./words.js";

const SECONDS = 10;
const AGES = [["", "any time"], ["60", "a minute"], ["600", "10 minutes"], ["3600", "an hour"], ["21600", "6 hours"],
  ["86400", "a day"], ["604800", "a week"]];
const FILTERS = ["project_id", "owner", "reason", "older_than"];

export function showList({ main, query, signal }) {
  const view = Object.hasOwn(VIEWS, query.get("view") ?? "") ? query.get("view") : "unknown";
  const asked = { view, cursor: query.get("cursor") ?? "" };
  for (const name of FILTERS) asked[name] = query.get(name) ?? "";

  const status = h("p", { class: "hint", role: "status" }, "Reading …");
  const rows = h("ul", { class: "rows" });
  const pages = h("nav", { class: "buttons", "aria-label": "Pages of the list" });
  main.append(
    h("h1", {}, `${VIEWS[view][0]} jobs`),
    h("nav", { class: "tabs", "aria-label": "Lists" }, Object.entries(VIEWS).map(([name, [label]]) =>
      h("a", { href: addressOf({ ...asked, view: name, cursor: "" }), "aria-current": name === view && "page" }, label))),
    h("p", { class: "hint" }, `${VIEWS[view][1]} The oldest come first.`),
    filters(asked), status, head(view), rows, pages);

  poll(async () => {
    const page = await get("/operations/jobs", asked, { signal });
    const toPage = (id, label, cursor) => h("a", { class: "button", id, href: addressOf({ ...asked, cursor }) }, label);
    setText(status, countOf(page));
    refresh(rows, page.items, (items) => items.map((job) => row(job, view)));
    refresh(pages, page.next_cursor, (next) => [asked.cursor && toPage("first-page", "First page", ""),
      next && toPage("next-page", "Next page", next)]);
  }, SECONDS, signal, (words) => setText(status, words));
}

function countOf({ items, next_cursor: next }) {
  if (!items.length) return next ? "None on this page; there may be more on the next." : "No job.";
  return `${jobs(items.length)}${next ? ", and more on the next page" : ""}.`;
}

function addressOf(asked) {
  return `#/jobs?${new URLSearchParams(Object.entries(asked).filter(([, value]) => value))}`;
}

function filters(asked) {
  const ages = AGES.some(([value]) => value === asked.older_than) ? AGES
    : [...AGES, [asked.older_than, `${asked.older_than} seconds`]];
  const text = (name) => input(name, asked[name]);
  const form = h("form", { class: "filters", "aria-label": "Filters" },
    field("Owner", text("owner")), field("Project", text("project_id")), field("Reason", text("reason")),
    field("Older than", select("older_than", ages, asked.older_than)),
    h("div", { class: "buttons" }, h("button", { type: "submit" }, "Filter"),
      button("Clear", () => { location.hash = addressOf({ view: asked.view }); })));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const filled = [...new FormData(form)].map(([name, value]) => [name, value.trim()]);
    location.hash = addressOf({ view: asked.view, ...Object.fromEntries(filled) });
  });
  return form;
}

const COLUMNS = { unknown: "Sent", silent: "Silent since", in_flight: "Claimed", failed: "Failed" };

function head(view) {
  return h("div", { class: "row head", "aria-hidden": "true" },
    ["Job", "State", "Owner", COLUMNS[view], "Why"].map((label) => h("span", {}, label)));
}

function row(job, view) {
  const { dispatch } = job;
  const since = {
    unknown: dispatch?.sent_at ?? dispatch?.claimed_at,
    silent: job.silent_since,
    in_flight: dispatch?.claimed_at,
    failed: job.status_since,
  }[view];
  const cell = (label, ...content) => h("span", { class: "cell" }, h("span", { class: "cell-label" }, `${label}: `), content);
  return h("li", { class: "row" },
    cell("Job", h("a", { href: `#/jobs/${job.id}` }, code(job.id)), job.name && [" ", text(job.name)]),
    cell("State", badge(job.status), " ", dispatch && dispatch.phase !== "SENT" && badge(dispatch.phase)),
    cell("Owner", text(job.owner)),
    cell(COLUMNS[view], moment(since)),
    cell("Why", job.reason ? text(job.reason) : "–"));
}
