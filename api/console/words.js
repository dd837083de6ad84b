// The API's words, in sentences.

export const VIEWS = {
  unknown: ["Unknown", "Sent, and no answer came: whether the orchestrator has them is not known."],
  silent: ["Silent", "Started, and the next report is overdue."],
  in_flight: ["In flight", "Claimed or being sent, or of unknown outcome."],
  failed: ["Failed", "Failed; those whose retry has not reported yet are among them."],
};

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
  "dispatch.released": "Dispatch given back",
  "dispatch.superseded": "Dispatch superseded",
  "dispatch.resent": "Dispatch to be sent again",
  "dispatch.asked": "Orchestrator asked",
  "dispatch.settled": "Dispatch settled by hand",
  "orchestrator.cancel_notified": "Orchestrator told of the cancel",
  "orchestrator.run_failed": "The engine's run ended badly",
  "orchestrator.reported_late": "Late report, not applied",
};

export const eventWords = (type) => EVENTS[type] ?? type;

export const TERMINAL = ["DONE", "FAILED", "CANCELLED"];
export const WORKING = ["AUDIO_EXTRACTING", "AUDIO_READY", "TRANSCRIBING", "TRANSCRIPT_READY", "GENERATING",
  "DRAFT_READY", "EDITING", "REGENERATING", "EXPORTING"];
