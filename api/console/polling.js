// Repeating a task every few seconds while the page is visible and in use.

import { ApiError } from "./api.js";

const IDLE_MINUTES = 60;
const MAX_PAUSE_SECONDS = 15;

let lastInput = Date.now();
for (const kind of ["pointerdown", "pointermove", "keydown"]) {
  addEventListener(kind, () => {
    const wasIdle = isIdle();
    lastInput = Date.now();
    if (wasIdle) dispatchEvent(new Event("input-again"));
  }, { passive: true });
}

const isIdle = () => Date.now() - lastInput > IDLE_MINUTES * 60_000;

/**
 * Call `task` now, and again `seconds` after it has ended, until `signal` aborts or it returns false; less often
 * while it throws. `showError` gets the text of each refusal. Returns a function that calls the task at once.
 */
export function poll(task, seconds, signal, showError = () => {}) {
  let timer = 0, failures = 0, isRunning = false, isOver = false;

  async function turn() {
    clearTimeout(timer);
    document.getElementById("idle").hidden = !isIdle();
    if (isRunning || isOver || signal.aborted || document.hidden || isIdle()) return;
    isRunning = true;
    try {
      isOver = await task() === false;
      failures = 0;
    } catch (error) {
      failures += 1;
      if (error instanceof ApiError && error.status) showError(error.words);
    }
    isRunning = false;
    const pause = failures ? Math.min(seconds * 2 ** failures, Math.max(MAX_PAUSE_SECONDS, seconds)) : seconds;
    if (!signal.aborted) timer = setTimeout(turn, pause * 1000);
  }

  document.addEventListener("visibilitychange", turn, { signal });
  for (const kind of ["input-again", "online"]) addEventListener(kind, turn, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  turn();
  return turn;
}
