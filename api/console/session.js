// Who uses the console, and signing in. A name or token is asked for again as soon as the API refuses it.

import { ApiError, get, setToken } from "./api.js";
import { field, h, select } from "./dom.js";

const IS_DEVELOPMENT = document.documentElement.dataset.auth === "dev";

/** What the caller may do, by what the API answered; null before the first sign-in. */
export let caller = null;

export const mayTry = () => IS_DEVELOPMENT && caller?.isEditor;

let dialog = null;

export const isSigningIn = () => dialog !== null;

/** Ask for a token or, in development, a name, until one is accepted; `entered` is called then. */
export function signIn(why, entered) {
  if (dialog) return;
  const note = h("p", { class: "outcome", role: "alert", "data-kind": "danger" }, why ?? "");
  const inputs = IS_DEVELOPMENT ? nameInputs() : tokenInputs();
  const form = h("form", { novalidate: true }, h("h1", { id: "sign-in-title" }, "Sign in to Take One"),
    inputs.rows, note, h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Sign in")));
  dialog = h("dialog", { id: "sign-in", "aria-labelledby": "sign-in-title",
    oncancel: (event) => event.preventDefault() }, form);
  // A browser lets a second Escape through.
  dialog.addEventListener("close", () => dialog?.showModal());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    note.textContent = "";
    const given = inputs.token();
    if (!/^[\x21-\x7e]+$/.test(given)) {
      note.textContent = IS_DEVELOPMENT ? "Give a name of ASCII letters, without spaces." : "This is not a token.";
      return;
    }
    try {
      const found = { name: inputs.name(given), ...await roles(given) };
      const isAnother = JSON.stringify(caller) !== JSON.stringify(found);
      caller = found;
      const shown = dialog;
      dialog = null;
      shown.close();
      shown.remove();
      entered(isAnother);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      note.textContent = error.status === 401
        ? "Not accepted: the token is wrong, or its time is over." : error.words;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** Forget the caller. */
export function signOut() {
  setToken(null);
  caller = null;
  remembered.clear();
}

// What was entered in this page's lifetime, so that it need not be typed again. Gone with the page.
const remembered = new Map();

function remember(input, otherwise) {
  input.value = remembered.get(input.name) ?? otherwise;
  input.addEventListener("input", () => remembered.set(input.name, input.value));
  return input;
}

const ROLES = [["editor,operator", "editor and operator"], ["editor", "editor: has projects and jobs"],
  ["operator", "operator: sees and settles all jobs"]];

function nameInputs() {
  const name = remember(h("input", { name: "name", autocomplete: "off", autofocus: true }), "alice");
  const role = remember(select("role", ROLES), ROLES[0][0]);
  return {
    rows: [field("Name", name, "This service runs for development: any name is accepted."), field("Role", role)],
    token: () => `test:${name.value.trim()}:${role.value}`,
    name: () => `${name.value.trim()} (${role.value.replace(",", ", ")})`,
  };
}

function tokenInputs() {
  const token = remember(h("input", { name: "token", type: "password", autocomplete: "off", autofocus: true }), "");
  return {
    rows: [field("Token", token, "A JWT with the operator role. It stays in this page's memory and nowhere else.")],
    token: () => token.value.trim(),
    name: subject,
  };
}

/** Whose token it is, for the eye; who may do what is the API's to say. */
function subject(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    return String(JSON.parse(new TextDecoder().decode(bytes)).sub);
  } catch {
    return "signed in";
  }
}

async function roles(token) {
  setToken(token);
  const allowed = (call) => call.then(() => true, (error) => {
    if (error.status === 403 || error.status === 404) return false;
    throw error;
  });
  try {
    const [isOperator, isEditor] = await Promise.all(
      [allowed(get("/operations/overview")), allowed(get("/projects", { limit: 1 }))]);
    return { isOperator, isEditor };
  } catch (error) {
    setToken(null);
    throw error;
  }
}
