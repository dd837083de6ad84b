// The caller, and signing in, which is needed again as soon as the API refuses the name or token.

import { ApiError, get, setToken } from "./api.js";
import { field, h, input, select } from "./dom.js";

const IS_DEVELOPMENT = document.documentElement.dataset.auth === "dev";

/** The caller's name and roles, as the API has answered; null before the first sign-in. */
export let caller = null;

export const mayTry = () => IS_DEVELOPMENT && caller?.isEditor;

let dialog = null;

export const isSigningIn = () => dialog !== null;

/** Ask for a token or, in development, a name, until one is accepted; then call `entered`. */
export function signIn(why, entered) {
  if (dialog) return;
  const note = h("p", { class: "outcome", role: "alert", "data-kind": "danger" }, why ?? "");
  const inputs = IS_DEVELOPMENT ? nameInputs() : tokenInputs();
  const form = h("form", { novalidate: true }, h("h1", { id: "sign-in-title" }, "Sign in to Take One"),
    inputs.rows, note, h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Sign in")));
  dialog = h("dialog", { id: "sign-in", "aria-labelledby": "sign-in-title",
    oncancel: (event) => event.preventDefault() }, form);
  // A second Escape closes it all the same.
  dialog.addEventListener("close", () => dialog?.showModal());
  let attempt = new AbortController();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    note.textContent = "";
    const token = inputs.token();
    if (!/^[\x21-\x7e]+$/.test(token)) {
      note.textContent = IS_DEVELOPMENT ? "Give a name of ASCII letters, without spaces." : "This is not a token.";
      return;
    }
    const shown = dialog;
    // When an earlier attempt fails, it must not take away this one's token.
    attempt.abort();
    attempt = new AbortController();
    try {
      const accepted = { name: inputs.name(token), ...await roles(token, attempt.signal) };
      const isAnother = JSON.stringify(caller) !== JSON.stringify(accepted);
      caller = accepted;
      dialog = null;
      shown.close();
      shown.remove();
      entered(isAnother);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      note.textContent = error.status === 401
        ? "Not accepted: the token is wrong or has expired." : error.words;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** Forget the caller. */
export function signOut() {
  setToken(null);
  caller = null;
}

const ROLES = [["editor,operator", "editor and operator"], ["editor", "editor: has projects and jobs"],
  ["operator", "operator: sees and settles all jobs"]];

function nameInputs() {
  const name = input("name", "alice", { autofocus: true });
  const role = select("role", ROLES);
  return {
    rows: [field("Name", name, "This service runs for development: any name is accepted."), field("Role", role)],
    token: () => `test:${name.value.trim()}:${role.value}`,
    name: () => `${name.value.trim()} (${role.value.replace(",", ", ")})`,
  };
}

function tokenInputs() {
  const token = input("token", null, { type: "password", autofocus: true });
  return {
    rows: [field("Token", token, "A JWT with the operator role. It is kept only in this page's memory.")],
    token: () => token.value.trim(),
    name: subject,
  };
}

/** The token's subject, only to be shown: the API decides what it may do. */
function subject(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    return String(JSON.parse(new TextDecoder().decode(bytes)).sub);
  } catch {
    return "signed in";
  }
}

async function roles(token, signal) {
  setToken(token);
  const allowed = (call) => call.then(() => true, (error) => {
    if (error.status === 403 || error.status === 404) return false;
    throw error;
  });
  try {
    const [isOperator, isEditor] = await Promise.all(
      [allowed(get("/operations/overview", {}, { signal })), allowed(get("/projects", { limit: 1 }, { signal }))]);
    return { isOperator, isEditor };
  } catch (error) {
    if (!signal.aborted) setToken(null);
    throw error;
  }
}
