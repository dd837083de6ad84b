// The question before an act: what will happen, why, and then what happened.

import { ApiError } from "./api.js";
import { announce, button, field, h, replace } from "./dom.js";

const LONGEST_REASON = 500;

/**
 * Ask before an act.
 *
 * `lines` say what will happen. `reason` is "required", "optional" or null. `perform(reason)` acts and returns what
 * happened, as text or elements; `after()` is called when the dialog is closed. A refusal is shown and leaves all as
 * it was entered, so that the act can be tried again.
 */
export function ask({ title, lines, label, reason = "required", isDangerous = false, perform, after = () => {} }) {
  const why = h("textarea", { name: "reason", rows: "3", maxlength: LONGEST_REASON, dir: "auto",
    required: reason === "required" });
  const outcome = h("div", { class: "outcome", role: "status" });
  const go = h("button", { type: "submit", class: isDangerous ? "danger" : "primary" }, label);
  const back = button("Go back", () => dialog.close());
  const form = h("form", { novalidate: true, onsubmit: submit },
    h("h2", { id: "dialog-title" }, title),
    h("ul", { class: "consequences" }, lines.filter(Boolean).map((line) => h("li", {}, line))),
    reason && field(reason === "required" ? "Reason" : "Reason (optional)", why,
      `Up to ${LONGEST_REASON} characters. It stays on record with your name.`),
    outcome, h("div", { class: "buttons" }, go, back));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", class: "act", onclose: closed }, form);

  async function submit(event) {
    event.preventDefault();
    // It is shown on terminals too, as one line.
    const given = why.value.trim().replace(/\s+/g, " ");
    if (reason === "required" && !given) {
      why.setAttribute("aria-invalid", "true");
      why.focus();
      return tell("danger", "Give a reason first.");
    }
    why.removeAttribute("aria-invalid");
    go.disabled = true;
    tell("", "Working …");
    try {
      const happened = await perform(given);
      go.remove();
      back.textContent = "Close";
      tell("done", happened);
      back.focus();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      go.disabled = false;
      tell("danger", error.status ? error.words
        : "No answer came: it may have been done. It is safe to try again.");
    }
  }

  function tell(kind, ...content) {
    outcome.dataset.kind = kind;
    replace(outcome, h("p", {}, content));
  }

  function closed() {
    dialog.remove();
    announce("");
    after();
  }

  document.body.append(dialog);
  dialog.showModal();
  (reason ? why : go).focus();
}

/** Close every question: the caller is another one. */
export function closeAll() {
  for (const dialog of document.querySelectorAll("dialog.act")) dialog.close();
}
