// Checks in Chromium what a page observes when its WebSocket is refused. browser_test.go runs
// it and sets
//
//	CHROMIUM  the browser
//	REFUSALS  the program in refusals, of which each test starts one

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { launchBrowser, startProgram } from "./program.js";

let browser, site;

before(async () => {
  browser = await launchBrowser();
  site = createServer((_, response) => {
    response.setHeader("Content-Type", "text/html");
    response.end("<!doctype html><title>refusals</title>");
  });
  site.listen(0, "127.0.0.1");
  await once(site, "listening");
});
after(async () => {
  await browser.close();
  site.close();
});

// The cases of the program, and the Close frames for them.
const cases = [
  { name: "limit", isAfterFirst: true, code: 1013, reason: "limit" },
  { name: "client limit", isAfterFirst: true, code: 1008, reason: "client limit" },
  { name: "rate", isAfterFirst: true, code: 1013, reason: "rate" },
  { name: "rate of client", isAfterFirst: true, code: 1008, reason: "rate" },
  { name: "origin", code: 1008, reason: "origin" }, // the site has another port
  { name: "admit 403", code: 1008, reason: "admit" },
  { name: "admit 500", code: 1011, reason: "admit" },
  { name: "no backend", code: 1013, reason: "no backend" },
  { name: "shutdown", code: 1012, reason: "shutdown" },
];

for (const { name, isAfterFirst, code, reason } of cases) {
  for (const subprotocols of [undefined, ["chat.v1", "x"]]) {
    const offer = subprotocols ? "with subprotocols" : "without subprotocols";
    test(`refusal by close, ${name}, ${offer}`, async () => {
      assert.deepEqual(await observe(["-by-close", name], isAfterFirst, subprotocols), {
        events: ["open", "close"],
        code, reason, wasClean: true,
        protocol: subprotocols ? "chat.v1" : "",
      });
    });
    test(`refusal by status, ${name}, ${offer}`, async () => {
      assert.deepEqual(await observe([name], isAfterFirst, subprotocols), {
        events: ["error", "close"],
        code: 1006, reason: "", wasClean: false,
        protocol: "",
      });
    });
  }
}

// observe returns what a page observes of a WebSocket to a proxy of the program. If
// isAfterFirst is true, the page has opened another one before, which is not refused.
async function observe(args, isAfterFirst, subprotocols) {
  const program = await startProgram(process.env.REFUSALS, args, /http:\S+(?=\n)/);
  const page = await browser.newPage();
  try {
    await page.goto(`http://127.0.0.1:${site.address().port}/`);
    return await page.evaluate(async ({ url, isAfterFirst, subprotocols }) => {
      if (isAfterFirst) {
        const first = new WebSocket(url);
        await new Promise((opened, failed) => {
          first.onopen = opened;
          first.onclose = (e) => failed(new Error(`the first WebSocket is closed with ${e.code}`));
        });
      }
      const socket = subprotocols ? new WebSocket(url, subprotocols) : new WebSocket(url);
      const events = [];
      for (const type of ["open", "message", "error", "close"]) {
        socket.addEventListener(type, () => events.push(type));
      }
      const { code, reason, wasClean } = await new Promise((closed) => { socket.onclose = closed; });
      return { events, code, reason, wasClean, protocol: socket.protocol };
    }, { url: program.url.replace("http:", "ws:"), isAfterFirst, subprotocols });
  } finally {
    await page.close();
    program.child.stdin.end();
    assert.deepEqual(await program.exited, [0, null]);
  }
}
