// One job for operators: its data, claims and trail, and the acts on it.

import { LONG_PATIENCE, get, post } from "./api.js";
import { ask } from "./dialog.js";
import { announce, badge, button, code, facts, h, moment, replace, setText, text } from "./dom.js";
import { artifacts, dispatchFacts, failureFacts, metadataFacts, timeline } from "./parts.js";
import { poll } from "./polling.js";
import { addressOfRetries } from "./retries.js";
import { TERMINAL, WORKING } from "./words.js";

const SECONDS = 3;

export function showJob({ main, id, signal }) {
  const status = h("p", { class: "hint", role: "status" }, "Reading …");
  const acts = h("div", { class: "buttons", role: "group", "aria-label": "Acts" });
  const body = h("div", {});
  const title = h("h1", {}, "Job ", code(id));
  main.append(title, status, acts, body);
  let known = "", lastStatus = "";

  const again = poll(async () => {
    try {
      const job = await get(`/operations/jobs/${encodeURIComponent(id)}`, {}, { signal });
      const now = JSON.stringify(job);
      setText(status, "");
      if (now === known) return;
      if (lastStatus && lastStatus !== job.status) announce(`The job is ${job.status} now.`);
      [known, lastStatus] = [now, job.status];
      replace(acts, actsOf(job, again));
      replace(body, sections(job));
    } catch (error) {
      if (error.status !== 404) throw error;
      setText(status, "There is no such job.");
      replace(acts);
      replace(body);
      return false;
    }
  }, SECONDS, signal, (words) => setText(status, words));
}

function sections(job) {
  const claims = job.claims.toReversed();
  return [
    facts([
      ["Name", job.name && text(job.name)],
      ["State", badge(job.status)],
      ["Silent since", moment(job.silent_since)],
      ["Since", moment(job.status_since)],
      ["Owner", text(job.owner)],
      ["Project", h("a", { href: `#/jobs?view=failed&project_id=${encodeURIComponent(job.project_id)}` }, code(job.project_id))],
      ["Created", moment(job.created_at)],
      ["Changed", moment(job.updated_at)],
    ]),
    job.failure && section("Failure", failureFacts(job.failure)),
    section(claims.length > 1 ? "Dispatches, the latest first" : "Dispatch",
      claims.length ? claims.map(dispatchFacts) : h("p", { class: "hint" }, "None yet.")),
    section("Timeline", job.earlier_events > 0 && h("p", { class: "hint" }, `${job.earlier_events} earlier events are not shown.`),
      timeline(job.events)),
    section("Artifacts", artifacts(job.manifest)),
    Object.keys(job.metadata ?? {}).length > 0 && section("The owner's metadata", metadataFacts(job.metadata)),
  ];
}

const section = (title, ...content) => h("section", {}, h("h2", {}, title), content);

/** The acts that fit the job's state. The dialog shows what the API refuses all the same. */
function actsOf(job, after) {
  const { status, dispatch } = job;
  const hasEnded = TERMINAL.includes(status);
  const isUnknown = dispatch?.phase === "UNKNOWN";
  const isRetry = dispatch?.phase === "SENT" && dispatch.kind === "retry";
  const act = (id, label, question) => button(`${label} …`, () => ask({ after, ...question }), { id: `act-${id}` });
  return [
    dispatch && (isUnknown || !hasEnded || (isRetry && status === "FAILED")) && act("ask", "Ask the orchestrator", asking(job)),
    isUnknown && act("sent", "Settle as sent", changing(job, "settle", SENT, { as: "sent" })),
    (isUnknown || isRetry) && act("release", "Settle as not arrived", changing(job, "settle", RELEASE, { as: "release" })),
    status === "FAILED" && h("a", { class: "button", id: "act-retry", href: addressOfRetries(job) }, "Retry …"),
    WORKING.includes(status) && act("fail", "Fail", changing(job, "fail", FAIL)),
    !hasEnded && act("cancel", "Cancel", changing(job, "cancel", CANCEL)),
  ];
}

const SENT = {
  title: "Settle as sent?",
  lines: ["You know that the orchestrator has this dispatch. Nothing is sent.",
    "The job continues as if the orchestrator had accepted it, and waits for its reports."],
  label: "Settle as sent",
};
const RELEASE = {
  title: "Settle as not arrived?",
  lines: ["You know that the orchestrator does not have this dispatch, or that its run is dead.",
    "The next run or retry sends again. If the orchestrator has it after all, the work is done twice.",
    "An orchestrator that can be asked is asked first."],
  label: "Settle as not arrived",
  isDangerous: true,
};
const CANCEL = {
  title: "Cancel the job?",
  lines: ["The job is CANCELLED for good: it can be neither run nor retried.",
    "A dispatch that was not posted is never posted; if the orchestrator may have one, it is notified."],
  label: "Cancel the job",
  isDangerous: true,
};
const FAIL = {
  title: "Fail the job?",
  lines: ["The job is FAILED; it can be retried from its furthest checkpoint.",
    "The orchestrator is asked first and told to stop the run, if it can do that. A run that continues is refused at "
      + "its next report."],
  label: "Fail the job",
  isDangerous: true,
};

/** An act that changes the job, with a reason. */
function changing(job, path, question, body = {}) {
  return {
    ...question,
    lines: [...question.lines, "The owner sees that an operator did it and why, not who."],
    perform: async (reason) => state(await perform(job, path, { ...body, reason })),
  };
}

function asking(job) {
  return {
    title: "Ask the orchestrator?",
    lines: [["A worker asks it for the dispatch ", code(job.dispatch.dispatch_id), "."],
      "If the orchestrator has it, its answer settles the dispatch. If not, it is sent again under the same id, if that "
        + "is safe."],
    label: "Ask",
    isReasonRequired: false,
    perform: async (reason) => {
      const { state: answer, job: now } = await perform(job, "ask", reason ? { reason } : {});
      return [answer ? ["The orchestrator says: ", badge(answer), ". "] : "The run reported by itself meanwhile. ", state(now)];
    },
  };
}

/** Some acts ask the orchestrator first, and wait for its answer. */
const perform = (job, act, body) => post(`/operations/jobs/${job.id}/${act}`, body, { patience: LONG_PATIENCE });

function state(job) {
  return ["The job is ", badge(job.status), job.dispatch ? [", its dispatch ", badge(job.dispatch.phase)] : "", "."];
}
