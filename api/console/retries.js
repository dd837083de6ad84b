// Retrying many failed jobs: first a dry run, then the confirmation, then the result of each.

import { ApiError, LONG_PATIENCE, post } from "./api.js";
import { ask } from "./dialog.js";
import { badge, button, code, field, h, input, replace, showOutcome, text } from "./dom.js";
import { jobs } from "./words.js";

const MAX_JOBS = 100;
const DAY = 86_400_000;

/** The address of the form, filled in for one failed job. */
export function addressOfRetries({ status_since, project_id, failure }) {
  const wanted = { failed_since: status_since, project_id, failure_code: failure?.code ?? "", limit: "1" };
  return `#/retries?${new URLSearchParams(wanted)}`;
}

export function showRetries({ main, query }) {
  const initial = (name, fallback = "") => query.get(name) ?? fallback;
  // It may have microseconds, while the form has seconds.
  const exactly = initial("failed_since", new Date(Date.now() - DAY).toISOString());
  const status = h("p", { class: "outcome", role: "status" });
  const results = h("div", {});
  let asking = new AbortController();
  const form = h("form", { class: "filters", "aria-label": "Which jobs", novalidate: true },
    field("Failed since", h("input", { name: "failed_since", type: "datetime-local", step: "1", value: localInput(exactly) }),
      "In your own time zone."),
    field("Failure code", input("failure_code", initial("failure_code"))),
    field("Project", input("project_id", initial("project_id"))),
    field("Model profile", input("model_profile", initial("model_profile", "standard"))),
    field("At most", input("limit", initial("limit", MAX_JOBS), { type: "number", min: "1", max: MAX_JOBS }),
      `1 to ${MAX_JOBS} jobs at a time.`),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Dry run")));
  main.append(h("h1", {}, "Retry failed jobs"),
    h("p", { class: "hint" }, "The dry run changes nothing. A retry that is repeated is recognised, and starts nothing twice."),
    form, status, results);

  form.addEventListener("input", clear);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = wantedBy(form, exactly);
    if (wanted) dryRun(wanted);
    else showOutcome(status, "danger", "Give the time since when.");
  });

  /** Show nothing of earlier dry runs, and drop what they will still answer. */
  function clear() {
    asking.abort();
    asking = new AbortController();
    replace(results);
    showOutcome(status, "");
  }

  async function dryRun(wanted) {
    clear();
    showOutcome(status, "", "Asking …");
    try {
      const page = await post("/operations/retries", { ...wanted, dry_run: true }, { signal: asking.signal });
      const number = page.items.length;
      const more = page.next_cursor ? "; there may be more among the next" : "";
      showOutcome(status, "", `The dry run found ${number ? jobs(number) : "no job"}${more}.`);
      replace(results, outcomes("What would happen", page.items),
        h("div", { class: "buttons" }, number > 0
          && button(`Retry ${number} …`, () => retryAll(wanted, page), { id: "retry-all", class: "primary" }),
        next(wanted, page)));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      showOutcome(status, "danger", error.words);
    }
  }

  function next(wanted, page) {
    return page.next_cursor && button("Dry run of the next jobs", () => dryRun({ ...wanted, cursor: page.next_cursor }),
      { id: "retry-next" });
  }

  function retryAll(wanted, { items }) {
    ask({
      title: `Retry ${jobs(items.length)}?`,
      lines: ["Each is dispatched once, from its furthest checkpoint. It stays FAILED until its first report.",
        "Those that cannot be retried are skipped and listed. If one has been retried meanwhile, one that failed later "
          + "may take its place.",
        "Their owners see that an operator did it and why, not who."],
      label: "Retry",
      perform: async (reason) => {
        const page = await post("/operations/retries", { ...wanted, reason }, { patience: LONG_PATIENCE });
        replace(results, outcomes("Results", page.items), h("div", { class: "buttons" }, next(wanted, page)));
        showOutcome(status, "", "Done. A job stays FAILED until its retry reports.");
        return summary(page.items);
      },
    });
  }
}

function wantedBy(form, exactly) {
  const given = [...new FormData(form)].map(([name, value]) => [name, value.trim()]);
  const filled = Object.fromEntries(given.filter(([, value]) => value));
  const since = filled.failed_since === localInput(exactly) ? exactly : new Date(filled.failed_since ?? "");
  if (Number.isNaN(new Date(since).getTime())) return null;
  return { ...filled, failed_since: typeof since === "string" ? since : since.toISOString(), limit: Number(filled.limit ?? MAX_JOBS) };
}

/** A time in the format of `datetime-local`, which has no seconds if they are zero. */
function localInput(moment) {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return "";
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19).replace(/:00$/, "");
}

function outcomes(title, items) {
  return items.length > 0 && [h("h2", {}, title), h("ul", { class: "rows" }, items.map((item) =>
    h("li", { class: "row outcome-row" }, h("a", { href: `#/jobs/${item.job_id}` }, code(item.job_id)),
      badge(item.outcome), item.dispatch_id ? code(item.dispatch_id) : text(item.code))))];
}

function summary(items) {
  const counts = Object.entries(Object.groupBy(items, (item) => item.outcome));
  return `Of ${items.length}: ${counts.map(([outcome, group]) => `${group.length} ${outcome}`).join(", ")}.`;
}
