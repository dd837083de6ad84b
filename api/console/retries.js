// Many failed jobs sent again: first a dry run that says which, then the question, then what came of each.

import { ApiError, LONG_PATIENCE, post } from "./api.js";
import { ask } from "./dialog.js";
import { badge, button, code, field, h, replace, text } from "./dom.js";

const MOST = 100;
const DAY = 86_400_000;

/** Where one failed job is retried. */
export function addressOfRetries({ status_since, project_id, failure }) {
  const wanted = { failed_since: status_since, project_id, failure_code: failure?.code ?? "", limit: "1" };
  return `#/retries?${new URLSearchParams(wanted)}`;
}

export function showRetries({ main, query }) {
  const given = (name, otherwise = "") => query.get(name) ?? otherwise;
  // To the microsecond, where the form knows seconds.
  const exactly = given("failed_since", new Date(Date.now() - DAY).toISOString());
  const input = (name, value) => h("input", { name, value, autocomplete: "off", dir: "auto" });
  const status = h("p", { class: "outcome", role: "status" });
  const found = h("div", {});
  const form = h("form", { class: "filters", "aria-label": "Which jobs", novalidate: true },
    field("Failed since", h("input", { name: "failed_since", type: "datetime-local", step: "1", value: localInput(exactly) }),
      "In your own time zone."),
    field("Failure code", input("failure_code", given("failure_code"))),
    field("Project", input("project_id", given("project_id"))),
    field("Model profile", input("model_profile", given("model_profile", "standard"))),
    field("At most", h("input", { name: "limit", type: "number", min: "1", max: String(MOST), value: given("limit", String(MOST)) }),
      `1 to ${MOST} jobs at a time.`),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Dry run")));
  main.append(h("h1", {}, "Retry failed jobs"),
    h("p", { class: "hint" }, "The dry run changes nothing. A retry that is repeated is recognised, and starts nothing twice."),
    form, status, found);

  form.addEventListener("input", () => replace(found));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = wantedBy(form, exactly);
    if (wanted) dryRun(wanted);
    else tell("danger", "Give the time since when.");
  });

  async function dryRun(wanted) {
    replace(found);
    tell("", "Asking …");
    try {
      const page = await post("/operations/retries", { ...wanted, dry_run: true });
      const number = page.items.length;
      tell("", number ? `The dry run found ${number} ${number === 1 ? "job" : "jobs"}.` : "The dry run found no job.");
      replace(found, outcomes("What would come of each", page.items),
        h("div", { class: "buttons" }, number > 0
          && button(`Retry ${number} …`, () => retryAll(wanted, page), { id: "retry-all", class: "primary" }),
        next(wanted, page)));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      tell("danger", error.words);
    }
  }

  function next(wanted, page) {
    return page.next_cursor && button("Dry run of the next jobs", () => dryRun({ ...wanted, cursor: page.next_cursor }),
      { id: "retry-next" });
  }

  function retryAll(wanted, { items }) {
    ask({
      title: `Retry ${items.length} ${items.length === 1 ? "job" : "jobs"}?`,
      lines: ["Each is dispatched once, from its furthest checkpoint. It stays FAILED until its first report.",
        "One that cannot be retried is passed over, and said. If one was retried by others meanwhile, one that failed "
          + "later may come in its place.",
        "Their owners see that an operator did it and why, not who."],
      label: "Retry",
      perform: async (reason) => {
        const page = await post("/operations/retries", { ...wanted, reason }, { patience: LONG_PATIENCE });
        replace(found, outcomes("What came of each", page.items), h("div", { class: "buttons" }, next(wanted, page)));
        tell("", "Done; a job whose retry has not reported yet is FAILED still.");
        return summary(page.items);
      },
    });
  }

  function tell(kind, message) {
    status.dataset.kind = kind;
    status.textContent = message;
  }
}

function wantedBy(form, exactly) {
  const given = Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim() !== ""));
  const since = given.failed_since === localInput(exactly) ? exactly : new Date(given.failed_since ?? "");
  if (Number.isNaN(new Date(since).getTime())) return null;
  return { ...given, failed_since: typeof since === "string" ? since : since.toISOString(), limit: Number(given.limit ?? MOST) };
}

/** A moment as `datetime-local` wants it. */
function localInput(moment) {
  const date = new Date(moment);
  if (Number.isNaN(date.getTime())) return "";
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function outcomes(title, items) {
  return items.length > 0 && [h("h2", {}, title), h("ul", { class: "rows" }, items.map((item) =>
    h("li", { class: "row outcome-row" }, h("a", { href: `#/jobs/${item.job_id}` }, code(item.job_id)),
      badge(item.outcome), item.dispatch_id ? code(item.dispatch_id) : text(item.code))))];
}

function summary(items) {
  const counts = Object.entries(Object.groupBy(items, (item) => item.outcome));
  return `Of ${items.length}: ${counts.map(([outcome, found]) => `${found.length} ${outcome}`).join(", ")}.`;
}
