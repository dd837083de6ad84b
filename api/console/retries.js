// Many failed jobs sent again: first a dry run that says which, then the question, then what came of each.

import { ApiError, post } from "./api.js";
import { ask } from "./dialog.js";
import { badge, button, code, field, h, replace, text } from "./dom.js";

const MOST = 100;

export function showRetries({ main, query }) {
  const status = h("p", { class: "outcome", role: "status" });
  const found = h("div", {});
  const form = h("form", { class: "filters", "aria-label": "Which jobs", novalidate: true },
    field("Failed since", h("input", { name: "failed_since", type: "datetime-local", step: "1",
      value: localInput(query.get("failed_since") ?? new Date(Date.now() - 86_400_000)) }), "In your own time zone."),
    field("Failure code", h("input", { name: "failure_code", autocomplete: "off", value: query.get("failure_code") ?? "" })),
    field("Project", h("input", { name: "project_id", autocomplete: "off", value: query.get("project_id") ?? "" })),
    field("Model profile", h("input", { name: "model_profile", autocomplete: "off", value: query.get("model_profile") ?? "standard" })),
    field("At most", h("input", { name: "limit", type: "number", min: "1", max: String(MOST), value: query.get("limit") ?? String(MOST) }),
      `1 to ${MOST} jobs at a time.`),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Dry run")));
  main.append(h("h1", {}, "Retry failed jobs"),
    h("p", { class: "hint" }, "The dry run changes nothing. A retry that is repeated is recognised, and starts nothing twice."),
    form, status, found);

  form.addEventListener("input", () => replace(found));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    replace(found);
    const wanted = wantedBy(form);
    if (!wanted) return tell(status, "danger", "Give the time since when.");
    tell(status, "", "Asking …");
    try {
      const { items } = await post("/operations/retries", { ...wanted, dry_run: true, reason: "Dry run" });
      tell(status, "", items.length ? `${items.length} ${items.length === 1 ? "job" : "jobs"} found.` : "No job was found.");
      if (!items.length) return;
      replace(found, outcomes(items),
        h("div", { class: "buttons" }, button(`Retry ${items.length} …`, () => retryAll(wanted, items, found),
          { id: "retry-all", class: "primary" })));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      tell(status, "danger", error.words);
    }
  });
}

function tell(status, kind, message) {
  status.dataset.kind = kind;
  status.textContent = message;
}

function wantedBy(form) {
  const given = Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim() !== ""));
  const since = new Date(given.failed_since);
  if (Number.isNaN(since.getTime())) return null;
  return { ...given, failed_since: since.toISOString(), limit: Number(given.limit ?? MOST) };
}

/** A moment as `datetime-local` wants it. */
function localInput(moment) {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return "";
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function retryAll(wanted, items, found) {
  ask({
    title: `Retry ${items.length} ${items.length === 1 ? "job" : "jobs"}?`,
    lines: ["Each is dispatched once, from its furthest checkpoint. It stays FAILED until its first report.",
      "One that cannot be retried is passed over, and said. Jobs that failed since the dry run may be among them.",
      "Their owners see that an operator did it and why, not who."],
    label: "Retry",
    perform: async (reason) => {
      const done = await post("/operations/retries", { ...wanted, dry_run: false, reason }, { patience: 60_000 });
      replace(found, h("h2", {}, "What came of it"), outcomes(done.items));
      return `${done.items.length} answered; the list behind this says what came of each.`;
    },
  });
}

export function outcomes(items) {
  return h("ul", { class: "rows" }, items.map((item) => h("li", { class: "row outcome-row" },
    h("a", { href: `#/jobs/${item.job_id}` }, code(item.job_id)), badge(item.outcome ?? ""),
    item.code && text(item.code), item.dispatch_id && code(item.dispatch_id))));
}
