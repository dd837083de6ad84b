// Take One's client. Its types are generated from the specification (schema.ts).

import type { components, paths } from "./schema.js";

type Schemas = components["schemas"];
type Query<Path extends keyof paths> =
  paths[Path] extends { get: { parameters: { query?: infer Q } } } ? Omit<NonNullable<Q>, "cursor"> : never;
export type Project = Schemas["Project"];
export type Job = Schemas["Job"];
export type JobEdit = Schemas["JobEdit"];
export type JobStatus = Schemas["JobStatus"];
export type AuditEvent = Schemas["AuditEvent"];
export type ErrorCode = Schemas["ErrorCode"];
/** The default profiles, or another one that the service's settings allow. */
export type ModelProfile = Schemas["RetryJobRequest"]["model_profile"] | (string & {});

export interface ClientOptions {
  /** Where the service is, without `/api/v1`; in a browser "" is the page's own host. */
  baseUrl: string;
  /**
   * The editor's token, or a function that returns it, called before each try so that it can replace an expired one;
   * neither `timeout` nor `signal` ends it, and what it throws ends the call.
   */
  token: string | (() => string | Promise<string>);
  /** Milliseconds that one call may take, with all its tries. Default: two minutes. */
  timeout?: number;
  /** Milliseconds that one try may take. Default: 20 seconds; by the service's defaults `run` answers within ten. */
  tryTimeout?: number;
}

export interface CallOptions {
  /** Ends the call: it rejects with the signal's reason. What was sent may have been done. */
  signal?: AbortSignal;
  /** Milliseconds that this call may take, with all its tries. */
  timeout?: number;
}

export interface CreateOptions extends CallOptions {
  /** The `Idempotency-Key`. Keep it with what you create, and a reloaded page creates nothing twice. */
  key?: string;
}

/** Where following begins. */
export interface FollowOptions extends CallOptions {
  /** The latest `updated_at` that you have. Jobs that changed up to five seconds before it are repeated. */
  updatedAfter?: string;
}

interface Page<Item> { items: Item[]; next_cursor: string | null }
interface Call extends CreateOptions { body?: unknown; query?: object; tryTimeout?: number }

/** The service refused the call, or could not be reached or did not answer within the time limit. */
export class TakeOneError extends Error {
  override readonly name = "TakeOneError";
  /** What to branch on; `null` if the answer is not Take One's own, or there was none. */
  readonly code: ErrorCode | null;
  /** What the specification lists for the code; else empty. */
  readonly details: Readonly<Record<string, unknown>>;
  /** How many tries were made. */
  attempts = 1;

  /**
   * `status` is `null` if no answer came; `retryAfter` is how many milliseconds the service asked to wait;
   * `requestId` is what operators find the call by (`takeone hash`).
   */
  constructor(
    readonly status: number | null, body?: Partial<Schemas["Error"]>, readonly retryAfter = 0,
    readonly requestId: string | null = null, options?: ErrorOptions,
  ) {
    super(status === null ? "No answer" : `${status} ${body?.message ?? "Not an answer of Take One"}`, options);
    this.code = body?.code ?? null;
    this.details = isObject(body?.details) ? body.details : {}; // a gateway may send null or a list
  }
}

/** `waitFor` ended too early: the job ended in another state, or the time was over. */
export class NotReached extends Error {
  override readonly name = "NotReached";
  constructor(/** As it was last seen. */ readonly job: Job, why: string) {
    super(`${why}; the job is ${job.status}`);
  }
}

// 502: the orchestrator did not accept it, or a gateway got no answer; 504: only the latter.
// The service recognises repeated writes.
const TRY_AGAIN: ReadonlySet<number | null> = new Set([null, 429, 502, 503, 504]);

// A gateway may ask for more milliseconds than setTimeout accepts, which would then not wait at all.
const LONGEST_PAUSE_MS = 3_600_000;
const TIMEOUT_MS = 120_000;

const POLL_SECONDS = 25; // some proxies wait 30
// Servers' clocks differ, and changes are not stored in the order in which they began.
const OVERLAP_MS = 5_000;
const OVERLAP_POLL_SECONDS = 2;
const LONG_AGO = "2001-01-01T00:00:00Z";

const ENDS: ReadonlySet<JobStatus> = new Set<JobStatus>(["DONE", "FAILED", "CANCELLED"]);

/** Calls Take One; repeats a call, under the same key, while the service is unavailable. */
export class TakeOne {
  constructor(private readonly options: ClientOptions) {}
  createProject(name: string, options: CreateOptions = {}): Promise<Project> {
    return this.#call("POST", "/projects", { body: { name }, ...options, key: options.key ?? newKey() });
  }

  /** Your projects, oldest first; pages are fetched as you go. `limit` is the size of a page. */
  listProjects(query?: Query<"/api/v1/projects">, options?: CallOptions): AsyncGenerator<Project, void> {
    return this.#items("/projects", query, options);
  }

  createJob(projectId: string, job: JobEdit = {}, options: CreateOptions = {}): Promise<Job> {
    const path = `/projects/${encodeURIComponent(projectId)}/jobs`;
    return this.#call("POST", path, { body: job, ...options, key: options.key ?? newKey() });
  }

  getJob(jobId: string, options?: CallOptions): Promise<Job> {
    return this.#call("GET", jobPath(jobId), options);
  }

  /** Your jobs of all projects, newest first; pages are fetched as you go. */
  listJobs(query?: Query<"/api/v1/jobs">, options?: CallOptions): AsyncGenerator<Job, void> {
    return this.#items("/jobs", query, options);
  }

  editJob(jobId: string, edit: JobEdit, options?: CallOptions): Promise<Job> {
    return this.#call("PATCH", jobPath(jobId), { body: edit, ...options });
  }

  /** Delete a job that has ended. If it is gone after a failed try, that try counts as what deleted it. */
  deleteJob(jobId: string, options?: CallOptions): Promise<void> {
    return this.#call<void>("DELETE", jobPath(jobId), options).catch((error: unknown) => {
      const isGone = error instanceof TakeOneError && error.code === "RESOURCE_NOT_FOUND";
      if (!isGone || error.attempts === 1) throw error;
    });
  }

  confirmUpload(jobId: string, videoUri: string, options?: CallOptions): Promise<Schemas["ConfirmUploadResponse"]> {
    return this.#call("POST", jobPath(jobId, "/confirm-upload"), { body: { video_uri: videoUri }, ...options });
  }

  /** Start the workflow; repeated calls start it once. */
  run(jobId: string, options?: CallOptions): Promise<Schemas["RunJobResponse"]> {
    return this.#call("POST", jobPath(jobId, "/run"), options);
  }

  /** Resume a failed job. `requestId` identifies one decision to retry: keep it if you repeat the call yourself. */
  retry(
    jobId: string, profile: ModelProfile, options: CallOptions & { requestId?: string } = {},
  ): Promise<Schemas["RetryJobResponse"]> {
    const body = { model_profile: profile, client_request_id: options.requestId ?? newKey() };
    return this.#call("POST", jobPath(jobId, "/retry"), { body, ...options });
  }

  /** Cancel a job, if it is not cancelled already. */
  cancel(jobId: string, options?: CallOptions): Promise<Job> {
    return this.#call<Job>("POST", jobPath(jobId, "/cancel"), options).catch((error: unknown) => {
      const isCancelled = error instanceof TakeOneError && error.details["current_status"] === "CANCELLED";
      if (!isCancelled) throw error;
      return this.getJob(jobId, options);
    });
  }

  /** The job's audit trail, in the order in which it was recorded; pages are fetched as you go. */
  events(jobId: string, options?: CallOptions): AsyncGenerator<AuditEvent, void> {
    return this.#items(jobPath(jobId, "/events"), {}, options);
  }

  /**
   * The job's audit trail from its beginning, and then each event as it is recorded. Endless, until you leave the loop.
   * Continues after temporary errors.
   * @throws TakeOneError after `timeout` without an answer, and when the job is deleted or not yours.
   */
  async *followEvents(jobId: string, options: CallOptions = {}): AsyncGenerator<AuditEvent, void> {
    let after = "0";
    for (;;) {
      const page = await this.#poll<Page<AuditEvent>>(jobPath(jobId, "/events"), { after }, POLL_SECONDS, options);
      yield* page.items;
      after = page.next_cursor ?? after;
    }
  }

  /**
   * All your jobs, in the order of their last change, and then each job that is created or changes.
   * Yields a job as it is at that time; deletions are not reported. One long poll serves all jobs. Endless, as
   * `followEvents` is.
   */
  async *followJobs(options: FollowOptions = {}): AsyncGenerator<Job, void> {
    const { updatedAfter = LONG_AGO, ...call } = options;
    let latest = updatedAfter;
    let seen = new Set<string>();
    for (;;) {
      const before = seen;
      seen = new Set();
      let isNew = false;
      const query = { order: "asc", limit: 200, updated_after: new Date(Date.parse(latest) - OVERLAP_MS).toISOString() };
      for await (const job of this.#items<Job>("/jobs", query, { ...call, timeout: call.timeout ?? Infinity })) {
        latest = job.updated_at;
        const change = `${job.id} ${job.updated_at}`;
        seen.add(change);
        if (before.has(change)) continue;
        isNew = true;
        yield job;
      }
      // Briefly after a change, to list soon what was stored late.
      const end = performance.now() + (isNew ? OVERLAP_POLL_SECONDS : POLL_SECONDS) * 1_000;
      for (let left = 1; left > 0; left = end - performance.now()) {
        const wait = Math.ceil((end - performance.now()) / 1_000);
        const change = { order: "asc", limit: 1, updated_after: latest };
        if ((await this.#poll<Page<Job>>("/jobs", change, wait, call)).items.length > 0) break;
      }
    }
  }

  /**
   * The job, as soon as it is in one of the `wanted` states, or the function `wanted` returns true. The function is
   * called after each change of state, and every 25 seconds. The default `timeout` is an hour.
   * @throws NotReached after `timeout`, or when the job has ended in another state. A job that is FAILED at first, but
   * was retried, has not ended.
   */
  async waitFor(
    jobId: string, wanted: readonly JobStatus[] | ((job: Job) => boolean), options: CallOptions = {},
  ): Promise<Job> {
    const { signal, timeout = 3_600_000 } = options;
    const end = performance.now() + timeout;
    const isWanted = typeof wanted === "function" ? wanted : (job: Job) => wanted.includes(job.status);
    let job = await this.getJob(jobId, { ...options, timeout: Math.min(timeout, this.options.timeout ?? TIMEOUT_MS) });
    let wasFailed = job.status === "FAILED";
    for (;;) {
      if (isWanted(job)) return job;
      wasFailed &&= job.status === "FAILED";
      const isRetried = wasFailed && job.dispatch?.kind === "retry" && job.dispatch.phase !== "RELEASED";
      if (ENDS.has(job.status) && !isRetried) throw new NotReached(job, "The job has ended");
      const left = end - performance.now();
      if (left <= 0) throw new NotReached(job, `Waited for ${timeout} ms`);
      const query = { status_not: job.status };
      const call = { ...options, timeout: left };
      job = await this.#poll<Job>(jobPath(jobId), query, POLL_SECONDS, call).catch((error: unknown) => {
        if (signal?.aborted || performance.now() < end - 10) throw error; // else the last poll came too late
        return job;
      });
    }
  }

  /** A long poll. It may end early; the service asks for a second between two without a change. */
  async #poll<T extends Job | Page<unknown>>(
    path: string, query: Record<string, unknown>, most: number, { timeout = Infinity, signal }: CallOptions,
  ): Promise<T> {
    const next = performance.now() + Math.min(1_000, timeout);
    const wait = Math.max(0, Math.floor(Math.min(most, timeout / 1_000 - 1)));
    const call = { timeout, query: { ...query, wait }, tryTimeout: wait * 1_000 + 10_000 };
    const answer = await this.#call<T>("GET", path, signal ? { ...call, signal } : call);
    const isNew = "items" in answer ? answer.items.length > 0 : answer.status !== query.status_not;
    if (!isNew) await sleep(Math.max(0, next - performance.now()), signal);
    return answer;
  }

  async *#items<Item>(path: string, query: object = {}, options: CallOptions = {}): AsyncGenerator<Item, void> {
    let cursor: string | undefined;
    do {
      const page: Page<Item> = await this.#call("GET", path, { ...options, query: { ...query, cursor } });
      yield* page.items;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  async #call<T>(method: string, path: string, request: Call = {}): Promise<T> {
    const end = performance.now() + (request.timeout ?? this.options.timeout ?? TIMEOUT_MS);
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#try<T>(method, path, request, end - performance.now());
      } catch (error) {
        if (!(error instanceof TakeOneError)) throw error;
        error.attempts = attempt;
        const pause = error.retryAfter + Math.min(500 * 2 ** (attempt - 1), 10_000) * (0.5 + Math.random());
        if (!TRY_AGAIN.has(error.status) || isUntrusted(error) || performance.now() + pause >= end) throw error;
        await sleep(Math.min(pause, LONGEST_PAUSE_MS), request.signal);
      }
    }
  }

  async #try<T>(method: string, path: string, call: Call, left: number): Promise<T> {
    const { body, key, query = {}, signal, tryTimeout = this.options.tryTimeout ?? 20_000 } = call;
    const { baseUrl, token } = this.options;
    if (/\/\.{0,2}(\/|$)/.test(path)) throw new TypeError("An id must not be empty, . or .."); // URL removes these
    const bearer = (typeof token === "string" ? token : await token()).trim();
    if (/[^ -~]/.test(bearer)) throw new TypeError("The token must be printable ASCII"); // Headers' error quotes it
    const headers = new Headers({ Authorization: `Bearer ${bearer}` });
    if (key !== undefined) headers.set("Idempotency-Key", key);
    if (body !== undefined) headers.set("Content-Type", "application/json");
    const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== undefined));
    const url = `${baseUrl.replace(/\/+$/, "")}/api/v1${path}?${asked}`;
    const limit = AbortSignal.timeout(Math.max(1, Math.ceil(Math.min(tryTimeout, left))));
    // Made here, not by fetch: an invalid URL or token is a mistake of the caller, not a failure of the network.
    const request = new Request(url, {
      method, headers, body: body === undefined ? null : JSON.stringify(body), redirect: "manual",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    if (!/^https?:/.test(request.url)) throw new TypeError("baseUrl must be http://… or https://…");
    const [response, text] = await fetch(request).then(async (it) => [it, await it.text()] as const).catch((cause) => {
      signal?.throwIfAborted();
      throw new TakeOneError(null, undefined, 0, null, { cause });
    });
    const answer = parsed(text);
    if (response.status === 204 || (response.ok && answer !== undefined)) return answer as T;
    const wait = retryAfter(response.headers);
    throw new TakeOneError(response.status, answer, wait, response.headers.get("X-Request-Id"));
  }
}

const jobPath = (jobId: string, rest = ""): string => `/jobs/${encodeURIComponent(jobId)}${rest}`;
// Pages loaded by plain HTTP have no crypto.randomUUID.
const newKey = (): string => crypto.getRandomValues(new Uint32Array(4)).join("-");

const isObject = (it: unknown): it is object => typeof it === "object" && it !== null && !Array.isArray(it);

// Node.js names why it does not trust a certificate; a browser does not, and the call is tried again.
const isUntrusted = ({ cause }: { cause?: any }): boolean => /CERT|VERIFY/.test(cause?.cause?.code);

function parsed(text: string): object | undefined {
  try {
    const answer: unknown = JSON.parse(text);
    return isObject(answer) ? answer : undefined;
  } catch {
    return undefined; // a gateway's own page
  }
}

/** Retry-After in milliseconds: it has seconds, or (from a gateway) a date, by the gateway's own clock. */
function retryAfter(headers: Headers): number {
  const told = headers.get("Retry-After") ?? "0";
  const now = Date.parse(headers.get("Date") ?? "") || Date.now();
  return Math.max(0, /^\d{1,300}$/.test(told) ? Number(told) * 1_000 : Date.parse(told) - now || 0);
}

function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = (): void => { clearTimeout(timer); reject(signal?.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener("abort", stop); resolve(); }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
