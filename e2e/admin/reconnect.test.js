// Checks that the page shows when the stream is lost, and recovers. admin_test.go runs it and
// sets
//
//	CHROMIUM  the browser
//	SITES     the URL at which sites are started

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launchBrowser } from "../browser/program.js";
import { newSite, openAdmin, waitForRefreshes, waitForText } from "./site.js";

let browser;

before(async () => { browser = await launchBrowser(); });
after(() => browser.close());

test("the stream reconnects after the server restarts", async () => {
  const site = await newSite({ backends: ["a", "b"] });
  await site.act("connect", { count: 30, path: "/rooms/a", client: "203.0.113.1" });
  const page = await openAdmin(browser, site);
  await page.evaluate(() => { window.isSame = true; });
  await waitForText(page, ".total:first-child .figure span", "30");
  await page.locator("#filters").getByLabel("Client").fill("203.0.113.3"); // is kept

  await site.act("stop");
  await waitForText(page, "#connection-state", "Lost");
  await waitForText(page, "#headline", "The proxy does not answer");
  await waitForText(page, "#refreshed", /^\d+ s old$/);

  await site.act("start");
  await waitForText(page, "#connection-state", "Live");
  await waitForText(page, "#headline", "All 2 backends are up");
  await site.act("connect", { count: 12, path: "/rooms/a", client: "203.0.113.100" });
  await waitForText(page, ".total:first-child .figure span", "42");
  await waitForRefreshes(page, 2);
  await waitForText(page, "#tunnels-summary", /^2 of 42 open/); // .3 and .30
  assert.ok(await page.evaluate(() => window.isSame), "the page was loaded again");
  // The browser reports what was asked of the server while there was none.
  assert.deepEqual(page.faults.filter((f) => !/^Failed to load resource: net::ERR_/.test(f)), []);
});

test("a page in the background has no stream", async () => {
  const site = await newSite({ backends: ["a"] });
  const page = await openAdmin(browser, site);
  const show = (state) => page.evaluate((state) => {
    Object.defineProperty(document, "visibilityState", { configurable: true, value: state });
    document.dispatchEvent(new Event("visibilitychange"));
  }, state);
  await show("hidden");
  await waitForText(page, "#connection-state", "Paused");
  await site.act("connect", { count: 7, path: "/rooms/a", client: "203.0.113.1" });
  await show("visible");
  await waitForText(page, "#connection-state", "Live");
  await waitForText(page, ".total:first-child .figure span", "7");
  assert.deepEqual(page.faults, []);
});
