// Lets a test in another language make the client's calls: one JSON line in for each, one out.
// In: {call, args, abortAfter?, take?, absent?}; out: {value}, or {error: {name, message, status, code, details, attempts, retryAfter, requestId}}.
// After `take` items an iterator is left. `absent` is an option that is undefined.

import { createInterface } from "node:readline";
import { type Job, TakeOne } from "@takeone/client";

const { API_URL: baseUrl = "", TOKEN: token = "", TIMEOUT = "20000", TRY_TIMEOUT = "20000" } = process.env;
const takeOne = new TakeOne({ baseUrl, token, timeout: Number(TIMEOUT), tryTimeout: Number(TRY_TIMEOUT) });

async function answer(line: string): Promise<object> {
  const { call, args, abortAfter, take, absent } = JSON.parse(line);
  if (abortAfter !== undefined) args.push({ signal: AbortSignal.timeout(abortAfter) });
  if (absent !== undefined) args.push({ [absent]: undefined });
  if (call === "waitForPhase") return takeOne.waitFor(args[0], (job: Job) => job.dispatch?.phase === args[1]);
  const made = (takeOne as any)[call](...args);
  if (!(Symbol.asyncIterator in made)) return made;
  const items: unknown[] = [];
  for await (const item of made) if (items.push(item) === take) break;
  return items;
}

for await (const line of createInterface({ input: process.stdin })) {
  const told = await answer(line).then(
    (value) => ({ value }),
    (error) => ({ error: { message: error.message, ...error, name: error.name } }),
  );
  console.log(JSON.stringify(told));
}
