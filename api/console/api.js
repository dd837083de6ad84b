// Calls of the API. The token is only in this module's memory, and lost with the page.

const PATIENCE = 15_000;
/** Timeout in milliseconds for calls that wait as long as a run does: TAKEONE_RUN_WAIT_SECONDS may be a minute. */
export const LONG_PATIENCE = 75_000;

let token = null;
const listeners = { unauthorized: () => {}, reached: () => {} };

/** Set the listeners: `unauthorized` if a token is refused, `reached(boolean)` if the service answers, or no more. */
export function listen(added) {
  Object.assign(listeners, added);
}

export function setToken(value) {
  token = value;
}

/** The service refused the call, or did not answer: then `status` is 0. */
export class ApiError extends Error {
  constructor(status, body = {}) {
    super(body.message ?? (status ? `The service answered ${status}.` : "The service does not answer."));
    this.status = status;
    this.code = body.code ?? "";
    this.details = body.details ?? {};
  }

  /** Message, code and details in one text. */
  get words() {
    const details = Object.entries(this.details)
      .map(([name, value]) => `${name}: ${[value].flat().join(" ")}`).join("; ");
    return `${this.message}${this.code ? ` (${this.code})` : ""}${details ? ` — ${details}` : ""}`;
  }
}

export const get = (path, query, options) => call("GET", path, { query, ...options });
export const post = (path, body, options) => call("POST", path, { body, ...options });

/**
 * Call a path below /api/v1 and return the answer's JSON, with `whole` also its status. Throws `ApiError`, or an
 * AbortError if `signal` aborts or another caller has signed in.
 */
async function call(method, path, { query = {}, body, key, signal, patience = PATIENCE, whole = false } = {}) {
  const parameters = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const search = parameters.length ? `?${new URLSearchParams(parameters)}` : "";
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
    // A gateway's own refusals are not JSON.
    if (!(answer?.status >= 400 && answer.status < 500)) listeners.reached(false);
    throw new ApiError(answer?.ok ? 0 : answer?.status ?? 0);
  }
  // The answer belongs to the caller of the earlier token: another one must not see it.
  if (sent !== token) throw new DOMException("The caller has changed", "AbortError");
  // A single job may be unreadable while all else works: of 5xx, only the overview's are an outage.
  if (answer.status < 500 || path === "/operations/overview") listeners.reached(answer.status < 500);
  if (answer.ok) return whole ? { status: answer.status, body: content } : content;
  if (answer.status === 401) listeners.unauthorized();
  throw new ApiError(answer.status, content);
}
