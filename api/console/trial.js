// For development: an editor's project and jobs, to see that many runs make one dispatch.

import { ApiError, LONG_PATIENCE, get, post } from "./api.js";
import { announce, badge, button, code, facts, field, h, input, moment, replace, select, setText, showOutcome, text } from "./dom.js";
import { artifacts, dispatchFacts, failureFacts, timeline } from "./parts.js";
import { poll } from "./polling.js";
import { caller } from "./session.js";

const WAIT_SECONDS = 20;
const WAIT_PATIENCE = (WAIT_SECONDS + 15) * 1000;
const PAUSE_SECONDS = 0.5;
const LONG_AGO = "2000-01-01T00:00:00Z";

export function showTrial({ main, signal }) {
  const projects = h("select", { name: "project_id", id: "field-project_id", required: true });
  const jobs = h("ul", { class: "rows" });
  const status = h("p", { class: "outcome", role: "status" });
  main.append(h("h1", {}, "Try Take One"),
    h("p", {}, "You are an editor. Make a project, a job in it, and start the job's workflow as often as you like: "
      + "the orchestrator gets one dispatch."),
    h("form", { class: "filters", "aria-label": "New project", onsubmit: acting(createProject) },
      field("New project", input("name", "Interviews")),
      h("div", { class: "buttons" }, h("button", { type: "submit" }, "Create the project"))),
    h("form", { class: "filters", "aria-label": "New job", onsubmit: acting(createJob) },
      field("Project", projects), field("New job", input("job_name", "My first take")),
      h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Create the job"))),
    status, h("h2", {}, "Your jobs, the newest first"), jobs);

  /** Create once, however often the button is pressed before the answer. */
  function acting(create) {
    return async (event) => {
      event.preventDefault();
      const submit = event.target.querySelector("button");
      submit.disabled = true;
      try {
        await create(new FormData(event.target), crypto.randomUUID());
        showOutcome(status, "", "");
      } catch (error) {
        showOutcome(status, "danger", error.words ?? "");
      }
      submit.disabled = false;
    };
  }

  async function createProject(form, key) {
    const project = await post("/projects", { name: form.get("name") }, { key });
    await readProjects(project.id);
    announce("The project is created.");
  }

  async function createJob(form, key) {
    const name = form.get("job_name").trim();
    const job = await post(`/projects/${form.get("project_id")}/jobs`, name ? { name } : {}, { key });
    location.hash = `#/try/${job.id}`;
  }

  async function readProjects(chosen) {
    const { items } = await get("/projects", { limit: 200 }, { signal });
    replace(projects, items.map(({ id, name }) => h("option", { value: id, selected: id === chosen }, name)));
  }

  readProjects().catch((error) => showOutcome(status, "danger", error.words ?? ""));
  // A long poll, answered as soon as any of the caller's jobs has changed.
  let latest = "";
  poll(async () => {
    const follow = { order: "desc", limit: 1, updated_after: latest, wait: WAIT_SECONDS };
    const changed = latest ? (await get("/jobs", follow, { signal, patience: WAIT_PATIENCE })).items : [];
    const { items } = await get("/jobs", { limit: 20 }, { signal });
    latest = [...items, ...changed].reduce((most, { updated_at: at }) => (at > most ? at : most), latest || LONG_AGO);
    replace(jobs, items.map((job) => h("li", { class: "row" },
      h("a", { href: `#/try/${job.id}` }, job.name ? text(job.name) : code(job.id)), badge(job.status),
      h("span", {}, moment(job.created_at)))));
  }, PAUSE_SECONDS, signal);
}

const FAULTS = [["", "go well"], ["audio", "fail at the audio"], ["transcription", "fail at the transcription"],
  ["generation", "fail at the draft"]];

export function showTrialJob({ main, id, signal }) {
  const path = `/jobs/${encodeURIComponent(id)}`;
  const acts = h("div", { class: "panel" });
  const answers = h("ol", { class: "answers", "aria-live": "polite", "aria-label": "Answers" });
  const body = h("div", {});
  const status = h("p", { class: "hint", role: "status" }, "Reading …");
  main.append(h("h1", {}, "Job ", code(id)), status, acts, answers, body);
  if (caller.isOperator) main.append(h("p", {}, h("a", { href: `#/jobs/${id}` }, "See it as an operator")));
  let known = null;

  // A long poll, answered as soon as the state changes.
  const again = poll(async () => {
    const query = known ? { wait: WAIT_SECONDS, status_not: known.status } : {};
    try {
      await show(await get(path, query, { signal, patience: WAIT_PATIENCE }));
    } catch (error) {
      if (error.status !== 404) throw error;
      setText(status, "There is no such job.");
      return false;
    }
    return !["DONE", "CANCELLED"].includes(known.status);
  }, PAUSE_SECONDS, signal, (words) => setText(status, words));

  async function show(job) {
    if (known && job.updated_at < known.updated_at) return;
    const { items } = await get(`${path}/events`, { limit: 200 }, { signal });
    if (known?.status !== job.status) {
      announce(`The job is ${job.status}.`);
      replace(acts, actsOf(job));
    }
    known = job;
    status.textContent = "";
    replace(body,
      facts([["Name", job.name && text(job.name)], ["State", badge(job.status)], ["Changed", moment(job.updated_at)]]),
      job.failure && h("section", {}, h("h2", {}, "Failure"), failureFacts(job.failure)),
      job.dispatch && h("section", {}, h("h2", {}, "Dispatch"), dispatchFacts(job.dispatch)),
      h("section", {}, h("h2", {}, "Timeline"), timeline(items)),
      h("section", {}, h("h2", {}, "Artifacts"), artifacts(job.manifest)));
  }

  /** Post to the job, list the answer, and read the job again. */
  async function act(label, name, body, words) {
    let line;
    try {
      const { status: code, body: answer } = await post(`${path}/${name}`, body, { whole: true, patience: LONG_PATIENCE });
      line = [h("strong", {}, `${label}: ${code}`), " ", words(answer)];
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      line = [h("strong", {}, `${label}: ${error.status || "no answer"}`), " ", error.words];
    }
    answers.append(h("li", {}, line));
    const job = await get(path, {}, { signal });
    await show(job);
    again();
  }

  function actsOf(job) {
    const cancel = button("Cancel", () => act("Cancel", "cancel", undefined, () => "The job is cancelled."), { id: "trial-cancel" });
    const run = button("Run", () => act("Run", "run", undefined, dispatched), { id: "trial-run", class: "primary" });
    if (["CREATED", "UPLOADING"].includes(job.status)) return [confirmForm(), h("div", { class: "buttons" }, cancel)];
    if (job.status === "FAILED") return [retryForm()];
    if (["DONE", "CANCELLED"].includes(job.status)) return [h("p", { class: "hint" }, "The job has ended.")];
    return [h("p", { class: "hint" }, "Press run as often as you like: every answer names the same dispatch."),
      h("div", { class: "buttons" }, run, cancel)];
  }

  const dispatched = (answer) => [answer.replayed ? "The dispatch exists already: " : "This call made the dispatch: ",
    code(answer.dispatch_id)];

  function confirmForm() {
    const form = h("form", { class: "filters", "aria-label": "Upload" },
      field("The video's address", input("video_uri", "s3://uploads/interview.mp4"),
        "Any URI: the demonstration's orchestrator does not open it."),
      field("Let its workflow", select("fault", FAULTS, "")),
      h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary", id: "trial-confirm" }, "Confirm the upload")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const { video_uri: uri, fault } = Object.fromEntries(new FormData(form));
      const upload = { video_uri: fault ? `${uri}?fail=${fault}` : uri };
      act("Confirm the upload", "confirm-upload", upload, () => "The job is ready to run.");
    });
    return form;
  }

  function retryForm() {
    const form = h("form", { class: "filters", "aria-label": "Retry" },
      field("Model profile", input("model_profile", "standard")),
      h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary", id: "trial-retry" }, "Retry")));
    // The same for every press of the button, so that they make one retry.
    const requestId = crypto.randomUUID();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const retry = { model_profile: new FormData(form).get("model_profile"), client_request_id: requestId };
      act("Retry", "retry", retry, dispatched);
    });
    return form;
  }
}
