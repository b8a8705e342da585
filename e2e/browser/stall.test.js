// Checks in Chromium that a page that does not read is cut. browser_test.go runs it and sets
//
//	CHROMIUM  the browser
//	STALLS    the program in stalls, of which each test starts one

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { launchBrowser, startProgram } from "./program.js";

const writeStall = 2; // seconds, of the program's proxy
let browser, site;

before(async () => {
  browser = await launchBrowser();
  site = createServer((_, response) => {
    response.setHeader("Content-Type", "text/html");
    response.end("<!doctype html><title>stalls</title>");
  });
  site.listen(0, "127.0.0.1");
  await once(site, "listening");
});
after(async () => {
  await browser.close();
  site.close();
});

// What makes a page read nothing. The time is more than the proxy takes to find it.
const freezes = {
  "main thread busy": async (page) => {
    page.evaluate(() => { // not awaited: it ends with the page
      setTimeout(() => { for (const until = performance.now() + 20_000; performance.now() < until;); });
    });
  },
  "paused in the debugger": async (page) => {
    const session = await page.context().newCDPSession(page);
    await session.send("Debugger.enable");
    const paused = new Promise((done) => { session.on("Debugger.paused", done); });
    await session.send("Debugger.pause"); // at the next message
    await paused;
  },
};

for (const [name, freeze] of Object.entries(freezes)) {
  test(`a page that does not read is cut, ${name}`, async (t) => {
    const program = await startProgram(process.env.STALLS, [], /http:\S+(?=\n)/);
    const ends = createInterface({ input: program.child.stdout })[Symbol.asyncIterator]();
    const url = program.url.replace("http:", "ws:");
    const other = await open(`${url}/other`);
    const page = await open(`${url}/frozen`);
    try {
      assert.equal(await echo(other), "hello");
      await page.evaluate(() => { window.socket.send("flood"); });
      await page.waitForFunction(() => window.messages >= 10);
      await freeze(page);

      const end = JSON.parse((await ends.next()).value);
      t.diagnostic(`ended after ${end.seconds.toFixed(1)} s and ${(end.bytes / 2 ** 20).toFixed(1)} MiB`);
      assert.deepEqual([end.path, end.side, end.cause], ["/frozen", "client", "stalled"]);
      assert.ok(end.seconds >= writeStall, `it has ended after ${end.seconds} s`);
      assert.equal(await echo(other), "hello");
    } finally {
      program.child.stdin.end();
      assert.deepEqual(await program.exited, [0, null]);
      await other.close();
      page.close().catch(() => {}); // it may be busy: the browser ends it
    }
  });
}

// open returns a page that has a WebSocket open, and counts its messages.
async function open(url) {
  const page = await (await browser.newContext()).newPage(); // a process of its own
  await page.goto(`http://127.0.0.1:${site.address().port}/`);
  await page.evaluate((url) => new Promise((opened, failed) => {
    window.messages = 0;
    window.socket = new WebSocket(url);
    window.socket.onopen = opened;
    window.socket.onclose = failed;
    window.socket.addEventListener("message", () => { window.messages++; });
  }), url);
  return page;
}

// echo sends a message from a page, and returns what comes back.
const echo = (page) => page.evaluate(() => new Promise((done) => {
  window.socket.addEventListener("message", (e) => done(e.data), { once: true });
  window.socket.send("hello");
}));
