// Serves the calls of a Remote: see remote.go.

import { createInterface } from "node:readline";

// serve calls functions by their names, several at once, until the standard input ends.
export async function serve(functions) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, name, args } = JSON.parse(line);
    answer(id, () => functions[name](...args)); // not awaited
  }
}

async function answer(id, call) {
  let line;
  try {
    line = { id, result: await call() ?? null };
  } catch (e) {
    line = { id, error: String(e?.message ?? e) || "error" };
  }
  console.log(JSON.stringify(line));
}
