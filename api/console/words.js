// What the API's names mean, for the reader.

export const VIEWS = {
  unknown: ["Unknown", "Sent, but no answer came: the orchestrator may or may not have them."],
  silent: ["Silent", "Started, and the next report is overdue."],
  in_flight: ["In flight", "Claimed or being sent, or of unknown outcome."],
  failed: ["Failed", "Failed, including those whose retry has not reported yet."],
};

export const jobs = (number) => `${number} ${number === 1 ? "job" : "jobs"}`;

const EVENTS = {
  "job.created": "Created",
  "job.upload_confirmed": "Upload confirmed",
  "job.status_changed": "State reported",
  "job.cancelled": "Cancelled",
  "job.failed": "Failed",
  "job.silent": "Report overdue",
  "dispatch.claimed": "Dispatch claimed",
  "dispatch.sent": "Dispatch sent",
  "dispatch.accepted": "Dispatch accepted",
  "dispatch.refused": "Dispatch refused",
  "dispatch.not_started": "Dispatch not started: nothing was sent",
  "dispatch.unknown": "Outcome unknown: no answer came",
  "dispatch.proved": "Dispatch proved by a callback",
  "dispatch.found": "Dispatch found at the orchestrator",
  "dispatch.released": "Dispatch released",
  "dispatch.superseded": "Dispatch superseded",
  "dispatch.resent": "Dispatch will be sent again",
  "dispatch.asked": "Orchestrator asked",
  "dispatch.settled": "Dispatch settled by hand",
  "orchestrator.cancel_notified": "Orchestrator notified of the cancel",
  "orchestrator.run_failed": "The engine's run ended badly",
  "orchestrator.reported_late": "Late report, not applied",
};

export const eventWords = (type) => EVENTS[type] ?? type;

export const TERMINAL = ["DONE", "FAILED", "CANCELLED"];
export const WORKING = ["AUDIO_EXTRACTING", "AUDIO_READY", "TRANSCRIBING", "TRANSCRIPT_READY", "GENERATING",
  "DRAFT_READY", "EDITING", "REGENERATING", "EXPORTING"];
