// Checks over which version of HTTP Chromium opens a WebSocket to a proxy, and that it works.
// http2_test.go runs it and sets
//
//	CHROMIUM  the browser
//	PLAIN     the program in plain, which does not import http2ws
//	IMPORTED  the one in imported, which does

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { startProgram } from "../browser/program.js";

let browser;

before(async () => {
  const args = ["--ignore-certificate-errors"];
  if (process.getuid() === 0) {
    args.push("--no-sandbox"); // which does not work for root
  }
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args });
});
after(() => browser.close());

const { PLAIN, IMPORTED } = process.env;

for (const { name, program, godebug, isOverHTTP2 } of [
  { name: "with the import", program: IMPORTED, isOverHTTP2: true },
  { name: "with the environment variable", program: PLAIN, godebug: "http2xconnect=1", isOverHTTP2: true },
  { name: "with neither", program: PLAIN, isOverHTTP2: false },
  { name: "with the import, and the variable against it", program: IMPORTED, godebug: "http2xconnect=0", isOverHTTP2: false },
]) {
  test(`WebSocket ${name}`, async () => {
    await withSite(program, godebug, async (page, url) => {
      const socket = await page.evaluate(useSocket);
      assert.deepEqual(socket, {
        protocol: "echo", extensions: "permessage-deflate",
        text: "h\u00e4llo".repeat(1000), empty: "", bytes: 1 << 20,
        close: { code: 4000, reason: "done", wasClean: true },
      });
      assert.deepEqual(await page.evaluate(closedBy, "backend"), { code: 4002, reason: "asked for", wasClean: true });
      assert.deepEqual(await page.evaluate(closedBy, "proxy"), { code: 4001, reason: "bye", wasClean: true });
      assert.deepEqual(await page.evaluate(closedBy, "refusal"), { code: 1013, reason: "no backend", wasClean: true });
      assert.deepEqual(await page.evaluate(closedBy, "another page"), { code: 1006, reason: "", wasClean: false });

      const log = await page.evaluate(async () => (await fetch("/log")).text());
      const requests = log.trim().split("\n").map((line) => line.split(" "));
      const [[pageVersion, , , pageConn]] = requests;
      assert.equal(pageVersion, "HTTP/2");
      const sockets = requests.filter(([, , path]) => path === "/ws" || path === "/refused");
      assert.equal(sockets.length, 4, log);
      for (const [version, method, , conn] of sockets) {
        assert.equal(method, "GET");
        assert.equal(version, isOverHTTP2 ? "HTTP/2" : "HTTP/1", log);
        assert.equal(conn === pageConn, isOverHTTP2, log);
      }
    });
  });
}

// useSocket runs in the page. It exchanges messages with the echo server.
async function useSocket() {
  const socket = new WebSocket(`wss://${location.host}/ws?a=1`, ["other", "echo"]);
  socket.binaryType = "arraybuffer";
  await new Promise((opened, failed) => {
    socket.onopen = opened;
    socket.onclose = (e) => failed(new Error(`closed with ${e.code}`));
  });
  const echo = async (message) => {
    socket.send(message);
    return (await new Promise((received, failed) => {
      socket.onmessage = received;
      socket.onclose = (e) => failed(new Error(`closed with ${e.code}`));
    })).data;
  };
  const text = await echo("h\u00e4llo".repeat(1000));
  const empty = await echo("");
  const bytes = (await echo(new Uint8Array(1 << 20))).byteLength;
  const { protocol } = socket;
  const [extensions] = socket.extensions.split(";");
  socket.close(4000, "done");
  const { code, reason, wasClean } = await new Promise((closed) => { socket.onclose = closed; });
  return { protocol, extensions, text, empty, bytes, close: { code, reason, wasClean } };
}

// closedBy runs in the page. It returns how a WebSocket was closed that somebody else has closed.
async function closedBy(who) {
  const path = { refusal: "/refused", "another page": "/" }[who] ?? "/ws";
  const socket = new WebSocket(`wss://${location.host}${path}`);
  socket.onopen = () => {
    if (who === "backend") {
      socket.send("close 4002");
    } else if (who === "proxy") {
      fetch("/close");
    }
  };
  const { code, reason, wasClean } = await new Promise((closed) => { socket.onclose = closed; });
  return { code, reason, wasClean };
}

// withSite calls use with a page of a new site.
async function withSite(program, godebug, use) {
  if (godebug) {
    process.env.GODEBUG = godebug;
  } else {
    delete process.env.GODEBUG;
  }
  const site = await startProgram(program, [], /https:\S+(?=\n)/);
  const page = await browser.newPage();
  try {
    await page.goto(`${site.url}/`);
    await use(page, site.url);
  } finally {
    await page.close();
    site.child.stdin.end();
    assert.deepEqual(await site.exited, [0, null]);
  }
}
