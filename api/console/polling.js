// Doing something again every few seconds: while the page is seen, and a person is there to see it.

const IDLE_MINUTES = 60;
const SLOWEST_SECONDS = 15;

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
 * Call `task` now, and again so many seconds after it ended, until `signal` ends it or it returns false; less
 * often while it fails. What fails is the task's to show. Returns a function that calls it without the pause.
 */
export function poll(task, seconds, signal) {
  let timer = 0, failures = 0, isRunning = false, isOver = false;

  async function turn() {
    clearTimeout(timer);
    if (isRunning || isOver || signal.aborted || document.hidden || isIdle()) return;
    isRunning = true;
    try {
      isOver = await task() === false;
      failures = 0;
    } catch {
      failures += 1;
    }
    isRunning = false;
    const pause = failures ? Math.min(seconds * 2 ** failures, Math.max(SLOWEST_SECONDS, seconds)) : seconds;
    if (!signal.aborted) timer = setTimeout(turn, pause * 1000);
  }

  document.addEventListener("visibilitychange", turn, { signal });
  for (const kind of ["input-again", "online"]) addEventListener(kind, turn, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  turn();
  return turn;
}
