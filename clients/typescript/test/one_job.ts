// One job from its creation to its draft. What the types do not allow is marked: the compiler fails if it is allowed.

import { type ErrorCode, type JobStatus, TakeOne, TakeOneError } from "@takeone/client";

const { API_URL: baseUrl = "", TOKEN: token = "" } = process.env;
const takeOne = new TakeOne({ baseUrl, token: () => Promise.resolve(token) });

function expect(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

const project = await takeOne.createProject("Spring interviews");
const job = await takeOne.createJob(project.id, { name: "Interview 7", metadata: { language: "en" } });

const early = await takeOne.run(job.id).catch((error: unknown) => error);
expect(early instanceof TakeOneError && early.code === "FSM_TRANSITION_INVALID", `run too early: ${early}`);
expect(early.details["current_status"] === "CREATED" && early.attempts === 1, "the details of a refusal");

const confirmed = await takeOne.confirmUpload(job.id, "s3://uploads/interview-07.mp4");
expect(confirmed.job.status === "UPLOADED" && !confirmed.replayed, "confirmUpload");
const first = await takeOne.run(job.id);
const again = await takeOne.run(job.id);
expect(!first.replayed && again.replayed && first.dispatch_id === again.dispatch_id, "two runs have one dispatch");

const ready = await takeOne.waitFor(job.id, ["DRAFT_READY"], { timeout: 60_000 });
expect(ready.manifest.draft_uri !== null && ready.dispatch?.phase === "SENT", "a draft stands in the manifest");
const seen: JobStatus[] = [];
for await (const event of takeOne.events(job.id)) if (event.new_status !== event.prev_status) seen.push(event.new_status);
for await (const mine of takeOne.listJobs({ project_id: project.id })) expect(mine.id === job.id, "the list");

// @ts-expect-error: no such state
const noStatus: JobStatus = "RUNNING";
// @ts-expect-error: no such code
const noCode: ErrorCode = "NOT_FOUND";
// @ts-expect-error: the URI is required
const noUri = () => takeOne.confirmUpload(job.id);
// @ts-expect-error: no such filter
const noFilter = () => takeOne.listJobs({ state: "DONE" });
void [noStatus, noCode, noUri, noFilter];

console.log(`${first.dispatch_id} SENT; ${seen.join(" ")}`);
