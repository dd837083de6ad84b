// Parts that the operator's and the editor's page of a job share.

import { address, badge, code, duration, facts, h, moment, text } from "./dom.js";
import { eventWords } from "./words.js";

/** A trail as a list: each event with its time, the time since the event before, its actor and its dispatch. */
export function timeline(events) {
  return h("ol", { class: "timeline" }, events.map((event, number) => {
    const before = events[number - 1];
    const isStep = event.prev_status !== event.new_status;
    return h("li", { "data-event": event.event_type },
      h("div", {}, h("strong", {}, eventWords(event.event_type)), " ",
        isStep ? [event.prev_status && [badge(event.prev_status), " → "], badge(event.new_status)] : null),
      event.reason && h("div", {}, "Reason: ", text(event.reason)),
      h("div", { class: "hint" },
        moment(event.recorded_at, { age: false }),
        before && ` · ${duration(new Date(event.recorded_at) - new Date(before.recorded_at))} later`,
        " · by ", actor(event),
        event.dispatch_id && [" · dispatch ", code(event.dispatch_id)],
        event.attempt !== undefined && ` · epoch ${event.attempt}`,
        event.execution_id && [" · run ", code(event.execution_id)]));
  }));
}

function actor(event) {
  return event.operator ? [`${event.actor_type} `, text(event.operator)] : event.actor_type;
}

/** A job's artifacts as links, none of which the page fetches. */
export function artifacts(manifest) {
  const present = Object.entries(manifest).filter(([, value]) => value !== null && value.length !== 0);
  if (!present.length) return h("p", { class: "hint" }, "None yet.");
  return facts(present.map(([name, value]) => [name, Array.isArray(value)
    ? h("ul", {}, value.map((item) => h("li", {}, artifact(item)))) : artifact(value)]));
}

// The orchestrator's own keys may have any value.
const artifact = (value) => typeof value === "string" ? address(value) : text(JSON.stringify(value));

/** A dispatch and the engine's run. */
export function dispatchFacts(dispatch) {
  return facts([
    ["Dispatch", code(dispatch.dispatch_id)],
    ["Kind", dispatch.kind],
    ["Epoch", dispatch.attempt && String(dispatch.attempt)],
    ["Sends", dispatch.sends && String(dispatch.sends)],
    ["Model profile", dispatch.model_profile],
    ["Resumes from", dispatch.resume_from_status && badge(dispatch.resume_from_status)],
    ["Phase", badge(dispatch.phase)],
    ["Reason", dispatch.reason && text(dispatch.reason)],
    ["Claimed", moment(dispatch.claimed_at)],
    ["Sent", moment(dispatch.sent_at)],
    ["Settled", moment(dispatch.settled_at)],
    ["Next look", moment(dispatch.due_at, { age: false })],
    ["The engine's run", dispatch.execution_id && code(dispatch.execution_id)],
    ["The engine said", dispatch.run_state],
    ["Cancel", dispatch.cancel_due && "the orchestrator is not notified yet"],
  ]);
}

export function failureFacts(failure) {
  return facts([["Code", failure.code && text(failure.code)], ["At", failure.stage && text(failure.stage)],
    ["Message", failure.message && text(failure.message)]]);
}

export function metadataFacts(metadata) {
  return facts(Object.entries(metadata ?? {}).map(([key, value]) => [text(key), text(value)]));
}
