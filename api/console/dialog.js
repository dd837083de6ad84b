// The dialog that confirms an act, and shows its result.

import { announce, button, field, h, showOutcome } from "./dom.js";

const MAX_REASON = 500;

/**
 * Confirm and perform an act.
 *
 * `lines` are its consequences. `isReasonRequired`: else the reason is optional. `perform(reason)` acts and returns
 * the result, as text or elements; `after()` is called when the dialog closes. After a refusal, the input stays and
 * the act can be tried again.
 */
export function ask({ title, lines, label, isReasonRequired = true, isDangerous = false, perform, after = () => {} }) {
  // Its id is not that of the lists' field "reason".
  const why = h("textarea", { id: "act-reason", name: "reason", rows: "3", maxlength: MAX_REASON, dir: "auto",
    required: isReasonRequired });
  const outcome = h("div", { class: "outcome", role: "status" });
  const go = h("button", { type: "submit", class: isDangerous ? "danger" : "primary" }, label);
  const back = button("Go back", () => dialog.close());
  const form = h("form", { novalidate: true, onsubmit: submit },
    h("h2", { id: "dialog-title" }, title),
    h("ul", { class: "consequences" }, lines.filter(Boolean).map((line) => h("li", {}, line))),
    field(isReasonRequired ? "Reason" : "Reason (optional)", why,
      `Up to ${MAX_REASON} characters. It stays on record with your name.`),
    outcome, h("div", { class: "buttons" }, go, back));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", class: "act", onclose: closed }, form);

  async function submit(event) {
    event.preventDefault();
    // The API takes one line, as reasons are shown on terminals too.
    const reason = why.value.trim().replace(/\s+/g, " ");
    if (isReasonRequired && !reason) {
      why.setAttribute("aria-invalid", "true");
      why.focus();
      return show("danger", "Give a reason first.");
    }
    why.removeAttribute("aria-invalid");
    go.disabled = true;
    show("", "Working …");
    try {
      const result = await perform(reason);
      go.remove();
      back.textContent = "Close";
      show("done", result);
      back.focus();
    } catch (error) {
      go.disabled = false;
      const isRefused = error.status >= 400 && error.status < 500;
      const words = error.words ?? "The answer was lost.";
      show("danger", isRefused ? words : `It may have been done. It is safe to try again. ${words}`);
    }
  }

  function show(kind, content) {
    showOutcome(outcome, kind, h("p", {}, content));
  }

  function closed() {
    dialog.remove();
    announce("");
    // The button that had the focus may have been replaced meanwhile.
    if (document.activeElement === document.body) document.getElementById("main").focus({ preventScroll: true });
    after();
  }

  document.body.append(dialog);
  dialog.showModal();
  why.focus();
}

/** Close all dialogs: what they are about is not shown any more. */
export function closeAll() {
  for (const dialog of document.querySelectorAll("dialog.act")) dialog.close();
}
