// What the page asks the proxy to do.

import { $, setText } from "./el.js";

// post sends an action. It returns what was done, as a sentence, and throws an Error with the
// reason if nothing was.
export async function post(path, action) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(action),
    });
  } catch {
    throw new Error("The proxy does not answer.");
  }
  const text = await response.text();
  let result = {};
  try {
    result = JSON.parse(text);
  } catch {
    // an answer that is not the handler's, but of something before it
  }
  if (!response.ok) throw new Error(result.error || text.trim() || `${response.status} ${response.statusText}`);
  return result.result;
}

let timer;

// toast shows a result for some seconds.
export function toast(text) {
  setText($("toast"), text);
  clearTimeout(timer);
  timer = setTimeout(() => setText($("toast"), ""), 6000);
}
