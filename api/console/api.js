// Calls of the API. The token is in this module's memory alone: it is gone when the page is.

const PATIENCE = 15_000;
/** Milliseconds for a call that may wait as long as a run does: TAKEONE_RUN_WAIT_SECONDS may be a minute. */
export const LONG_PATIENCE = 75_000;

let token = null;
const listeners = { unauthorized: () => {}, reached: () => {} };

/** Say what to do when a call is refused for its token, and when the service begins or ends to answer. */
export function listen(given) {
  Object.assign(listeners, given);
}

export function setToken(given) {
  token = given;
}

/** The service refused the call; `status` is 0 if it did not answer. */
export class ApiError extends Error {
  constructor(status, body = {}) {
    super(body.message ?? (status ? `The service answered ${status}.` : "The service does not answer."));
    this.status = status;
    this.code = body.code ?? "";
    this.details = body.details ?? {};
  }

  /** What is wrong, in one text. */
  get words() {
    const details = Object.entries(this.details)
      .map(([name, value]) => `${name}: ${[value].flat().join(" ")}`).join("; ");
    return `${this.message}${this.code ? ` (${this.code})` : ""}${details ? ` — ${details}` : ""}`;
  }
}

export const get = (path, query, options) => call("GET", path, { query, ...options });
export const post = (path, body, options) => call("POST", path, { body, ...options });

/** Send a call to a path below /api/v1 and return the answer's JSON; raises `ApiError`, or AbortError by `signal`. */
async function call(method, path, { query = {}, body, key, signal, patience = PATIENCE, whole = false } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = given.length ? `?${new URLSearchParams(given)}` : "";
  const sent = token;
  if (!sent) throw new DOMException("Not signed in", "AbortError");
  const headers = { Authorization: `Bearer ${sent}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  let answer, content;
  try {
    answer = await fetch(`/api/v1${path}${search}`, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store",
      credentials: "omit", redirect: "error",
      signal: AbortSignal.any([AbortSignal.timeout(patience), ...(signal ? [signal] : [])]),
    });
    content = await answer.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    listeners.reached(false);
    throw new ApiError(answer?.ok ? 0 : answer?.status ?? 0);
  }
  // What was asked with an earlier token is neither the present caller's to see nor theirs to be told of.
  if (sent !== token) throw new DOMException("The caller has changed", "AbortError");
  listeners.reached(answer.status < 500 || answer.status === 502);
  if (answer.ok) return whole ? { status: answer.status, body: content } : content;
  if (answer.status === 401) listeners.unauthorized();
  throw new ApiError(answer.status, content);
}
