// The counts of jobs, claims and messages, refreshed every few seconds; and the pause of dispatching.

import { post } from "./api.js";
import { ask } from "./dialog.js";
import { button, h, moment, refresh, text } from "./dom.js";
import { VIEWS } from "./words.js";

let latest = null;
addEventListener("overview", ({ detail }) => { latest = detail; });

export function showOverview({ main, signal }) {
  const tiles = h("div", { class: "tiles", "aria-live": "off" });
  const tables = h("div", { class: "columns" });
  const pause = h("div", { class: "buttons" });
  main.append(h("h1", {}, "Overview"), tiles, pause, tables);
  const show = (overview) => {
    const { unknown, silent, in_flight, failed_last_24h: failed } = overview;
    refresh(tiles, { unknown, silent, in_flight, failed }, tilesOf);
    refresh(pause, overview.paused, (isPaused) => isPaused
      ? button("Resume dispatching …", resume, { id: "toggle-pause" })
      : button("Pause dispatching …", pauseAll, { id: "toggle-pause" }));
    const read = Object.values(overview.claims).reduce((sum, count) => sum + count, 0);
    const claims = { ...overview.claims, "of these, at another engine": overview.at_another_engine };
    refresh(tables, [overview.jobs, claims, overview.queues, read < overview.in_flight], () => [
      counts("Jobs that have not ended", overview.jobs),
      counts(`Claims by phase${read < overview.in_flight ? " (CLAIMED and SENDING of the 1,000 oldest)" : ""}`, claims),
      counts("Messages waiting in queues", overview.queues)]);
  };
  if (latest) show(latest);
  addEventListener("overview", ({ detail }) => show(detail), { signal });
}

function tilesOf(counted) {
  return Object.entries(VIEWS).map(([view, [label, meaning]]) => {
    const count = counted[view];
    return h("a", { class: "tile", href: `#/jobs?view=${view}`, "data-count": count,
      "data-kind": count && view !== "in_flight" ? "warning" : null },
    h("span", { class: "count" }, String(count ?? "–")), h("span", { class: "label" },
      view === "failed" ? "Failed in 24 hours" : label), h("span", { class: "hint" }, meaning));
  });
}

function counts(title, counted) {
  const rows = Object.entries(counted).filter(([, count]) => count);
  return h("section", {}, h("h2", {}, title), rows.length
    ? h("table", {}, h("tbody", {}, rows.map(([name, count]) =>
      h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, String(count))))))
    : h("p", { class: "hint" }, "None."));
}

const reread = () => dispatchEvent(new Event("overview-stale"));

function pauseAll() {
  ask({
    title: "Pause dispatching?",
    lines: ["No worker posts a dispatch until dispatching is resumed.",
      "Runs are accepted and wait. Callbacks, cancels and asks continue, and so do posts that have begun."],
    label: "Pause dispatching",
    perform: async (reason) => {
      const { pause } = await post("/operations/pause", { reason });
      return ["Dispatching is paused since ", moment(pause.since, { age: false }), " by ", text(pause.by), "."];
    },
    after: reread,
  });
}

/** Ask whether to resume dispatching. */
export function resume() {
  ask({
    title: "Resume dispatching?",
    lines: ["Workers post dispatches again, those that waited first.", latest?.pause
      && ["It is paused since ", moment(latest.pause.since), " by ", text(latest.pause.by), ": ",
        text(latest.pause.reason)]],
    label: "Resume dispatching",
    isReasonRequired: false,
    perform: async (reason) => {
      await post("/operations/resume", reason ? { reason } : {});
      return "Dispatching is resumed.";
    },
    after: reread,
  });
}
