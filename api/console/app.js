// The page around the views: navigation, sign-in, and banners for a pause and a lost connection.

import { ApiError, get, listen, setToken } from "./api.js";
import { closeAll } from "./dialog.js";
import { announce, button, h, moment, refresh, replace, text } from "./dom.js";
import { showJob } from "./job.js";
import { showList } from "./list.js";
import { resume, showOverview } from "./overview.js";
import { poll } from "./polling.js";
import { showRetries } from "./retries.js";
import { caller, isSigningIn, mayTry, signIn, signOut } from "./session.js";
import { showTrial, showTrialJob } from "./trial.js";

const OVERVIEW_SECONDS = 5;

const find = (id) => document.getElementById(id);

const PAGES = [
  ["Overview", "#/", () => caller.isOperator],
  ["Jobs", "#/jobs", () => caller.isOperator],
  ["Retries", "#/retries", () => caller.isOperator],
  ["Try it", "#/try", mayTry],
];

let visit = new AbortController();
let signedIn = new AbortController();

/** The path and query behind the address's `#`. */
function place() {
  const [path, search = ""] = location.hash.replace(/^#/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(search) };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function viewOf({ parts: [page = "", id] }) {
  if (page === "try") return mayTry() && (id ? showTrialJob : showTrial);
  if (!caller.isOperator) return null;
  const views = { "": showOverview, jobs: id ? showJob : showList, retries: showRetries };
  return Object.hasOwn(views, page) ? views[page] : undefined;
}

function show() {
  visit.abort();
  visit = new AbortController();
  closeAll();
  const main = find("main");
  main.replaceChildren();
  if (!caller) return;
  showNavigation();
  const here = place();
  const view = viewOf(here);
  if (view) view({ main, id: here.parts[1], query: here.query, signal: visit.signal });
  else if (view === undefined) main.append(h("h1", {}, "No such page"), h("p", {}, h("a", { href: "#/" }, "Overview")));
  else main.append(...roleNeeded(here));
  nameThePage();
}

function nameThePage() {
  document.title = `${find("main").querySelector("h1").textContent} – Take One console`;
}

function roleNeeded(here) {
  const role = here.parts[0] === "try" ? "editor" : "operator";
  return [
    h("h1", {}, "Another role is needed"),
    h("p", {}, here.parts[0] === "try"
      ? "This page is for editors, and for a service that runs for development."
      : `The operator's role is needed for this page: ${caller.name} does not have it, or this service has no `
        + "operator API."),
    role === "operator" && mayTry() && h("p", {}, h("a", { href: "#/try" }, "Try Take One as an editor")),
  ].filter(Boolean);
}

function showNavigation() {
  const here = `#/${place().parts[0] ?? ""}`;
  replace(find("nav"), PAGES.filter(([, , may]) => may()).map(([label, href]) =>
    h("a", { href, "aria-current": href === here && "page" }, label)));
  find("nav").hidden = false;
  find("session").hidden = false;
  find("who").textContent = caller.name;
}

function entered(isAnother) {
  signedIn.abort();
  signedIn = new AbortController();
  if (caller.isOperator) poll(readOverview, OVERVIEW_SECONDS, signedIn.signal);
  if (!isAnother) {
    showNavigation();
    nameThePage();
    return dispatchEvent(new Event("input-again"));
  }
  if (!location.hash && mayTry()) history.replaceState(null, "", "#/try");
  show();
}

async function readOverview() {
  const overview = await get("/operations/overview", {}, { signal: signedIn.signal });
  showPause(overview.pause);
  dispatchEvent(new CustomEvent("overview", { detail: overview }));
}

function showPause(pause) {
  find("pause").hidden = !pause;
  refresh(find("pause"), pause, () => pause && [
    h("p", {}, h("strong", {}, "Dispatching is paused"), " since ", moment(pause.since, { age: false }), " by ",
      text(pause.by), ": ", text(pause.reason)),
    button("Resume …", resume, { id: "resume" })]);
}

/** Ask to sign in. The page keeps what was entered, hidden by its style, for the case that the same caller comes back. */
function leave(why) {
  signedIn.abort();
  setToken(null);
  showPause(null);
  document.title = "Take One console";
  signIn(why, entered);
}

let lostAt = null;

listen({
  unauthorized: () => isSigningIn() || leave("The token is not accepted any more. Sign in again to continue."),
  reached: (isReached) => {
    if (isReached === !lostAt) return;
    lostAt = isReached ? null : new Date();
    const banner = find("connection");
    banner.hidden = isReached;
    replace(banner, !isReached && h("p", {}, "No answer from the service since ", moment(lostAt.toISOString(),
      { age: false }), ". What you see may be old; trying again."));
    if (isReached) announce("The service answers again.");
  },
});

find("sign-out").addEventListener("click", () => {
  signOut();
  show();
  for (const id of ["nav", "who"]) find(id).replaceChildren();
  leave();
});
find("skip").addEventListener("click", (event) => {
  event.preventDefault();
  find("main").focus();
});
addEventListener("hashchange", () => {
  show();
  if (caller) find("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof ApiError || event.reason?.name === "AbortError") event.preventDefault();
});
addEventListener("overview-stale", () => signedIn.signal.aborted || readOverview().catch(() => {}));

leave();
