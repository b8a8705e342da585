// Measures the page of a proxy with 9,000 tunnels. admin_test.go runs it and sets
//
//	CHROMIUM  the browser
//	SITES     the URL at which sites are started

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launchBrowser } from "../browser/program.js";
import { newSite, openAdmin, waitForRefreshes, waitForText } from "./site.js";

const numTunnels = 9000;
const maxPaint = 500, maxFilter = 200; // ms
const maxNodes = 2000;
const slack = 4; // of a machine that does other work

let browser;

before(async () => { browser = await launchBrowser(); });
after(() => browser.close());

test("9,000 tunnels", async (t) => {
  const site = await newSite({ backends: ["chat-1", "chat-2", "chat-3", "chat-4"] });
  await site.act("connect", { count: numTunnels, path: "/rooms/general", client: "203.0.100.1", user: "ann" });
  await site.act("connect", { path: "/rooms/vip", client: "198.51.100.7", user: "cleo", requestID: "needle" });
  for (let i = 0; i < 40; i++) await site.act("connect", { path: "/rooms/vip", client: "198.51.100.9", user: "mallory" });

  await (await openAdmin(browser, site)).close(); // the browser has started all of its processes
  const page = await openAdmin(browser, site, { viewport: { width: 1280, height: 900 } });
  await page.locator("#tunnels tbody tr").nth(24).waitFor();
  await waitForText(page, "#tunnels-summary", "9,001 open, the first 25 are shown");

  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
  const figures = await page.evaluate(() => Math.max(...performance.getEntriesByType("resource").filter((r) => /tunnels\?/.test(r.name)).slice(0, 1).map((r) => r.responseEnd)));
  t.diagnostic(`first paint after ${paint.toFixed(0)} ms, the first tunnels after ${figures.toFixed(0)} ms`);
  assert.ok(paint < maxPaint * slack, `first paint after ${paint} ms`);
  assert.ok(figures < maxPaint * slack, `the first tunnels after ${figures} ms`);

  await waitForRefreshes(page, 3);
  const nodes = await page.evaluate(() => {
    const walker = document.createTreeWalker(document, NodeFilter.SHOW_ALL);
    let n = 1;
    while (walker.nextNode()) n++;
    return n;
  });
  t.diagnostic(`${nodes} nodes, texts included`);
  assert.ok(nodes < maxNodes, `${nodes} nodes`);

  for (const [label, text, want] of [["Request ID", "needle", "1 of 9,001 open"], ["Client", "203.0.101.", "256 of 9,001 open, the first 25 are shown"], ["Value", "cle", "1 of 9,001 open"]]) {
    const took = await page.evaluate(([label, text, want]) => new Promise((done) => {
      const input = [...document.querySelectorAll("#filters label")].find((l) => l.textContent === label).control;
      const summary = document.getElementById("tunnels-summary");
      const start = performance.now();
      new MutationObserver(() => {
        if (summary.textContent === want) requestAnimationFrame(() => done(performance.now() - start)); // when it is drawn
      }).observe(summary, { characterData: true, childList: true, subtree: true });
      input.value = text;
      input.dispatchEvent(new Event("input", { bubbles: true }));
    }), [label, text, want]);
    t.diagnostic(`filter by ${label}: ${took.toFixed(0)} ms`);
    assert.ok(took < maxFilter * slack, `the filter by ${label} took ${took} ms`);
    await page.getByRole("button", { name: "Clear" }).click();
    await waitForText(page, "#tunnels-summary", "9,001 open, the first 25 are shown");
  }
  assert.deepEqual(page.faults, []);
});
