// Checks what the page says where there is nothing to show. admin_test.go runs it and sets
//
//	CHROMIUM  the browser
//	SITES     the URL at which sites are started

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launchBrowser } from "../browser/program.js";
import { assertFits, newSite, openAdmin, waitForText } from "./site.js";

let browser;

before(async () => { browser = await launchBrowser(); });
after(() => browser.close());

test("a proxy without backends", async () => {
  const page = await openAdmin(browser, await newSite({}));
  await waitForText(page, "#headline", "There are no backends");
  await page.getByText("There are no backends: each upgrade is refused").waitFor();
  await page.getByText("No tunnel is open.").waitFor();
  await page.getByText("No request was refused.").first().waitFor();
  assert.equal(await page.getByRole("table").count(), 0);
  await assertFits(page);
  assert.deepEqual(page.faults, []);
});

test("a proxy without tunnels", async () => {
  const page = await openAdmin(browser, await newSite({ backends: ["a"] }));
  await waitForText(page, "#headline", "The backend is up");
  await page.getByText("No request was refused in the last minute.").waitFor();
  await page.getByText("No tunnel is open.").waitFor();
  await page.locator("#filters").getByLabel("Client").fill("203.0.113.1");
  await page.getByText("None of the 0 open tunnels matches.").waitFor();
  assert.deepEqual(page.faults, []);
});

test("a page that may not act", async () => {
  const site = await newSite({ backends: ["a", "b"], readOnly: true });
  await site.act("connect", { count: 3, path: "/rooms/a", client: "203.0.113.1" });
  const page = await openAdmin(browser, site);
  await page.getByText("read-only").waitFor();
  await page.locator("#tunnels tbody tr").nth(2).waitFor();
  assert.equal(await page.getByRole("button", { name: /^(Drain|Resume|Close)/ }).count(), 0);
  assert.deepEqual(page.faults, []);
});

test("a viewer who is not let in", async () => {
  const site = await newSite({ backends: ["a"] });
  const page = await openAdmin(browser, site);
  await site.act("deny", { on: true });
  const late = await browser.newPage();
  assert.equal((await late.goto(site.admin)).status(), 403);
  assert.match(await late.textContent("body"), /\S/);

  // A page that is open says why its actions, and later its figures, are refused.
  await page.getByRole("button", { name: "Drain a" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Drain", exact: true }).click();
  await page.getByRole("alert").getByText(/\S/).first().waitFor();
  await page.keyboard.press("Escape");
  await site.act("stop");
  await site.act("start");
  await waitForText(page, "#connection-state", "Not allowed");
  await waitForText(page, "#headline", "The proxy does not let you in");
  await site.act("deny", { on: false });
  await waitForText(page, "#connection-state", "Live");
  await waitForText(page, "#headline", "The backend is up");
});

test("why a client was refused is found by its request ID", async () => {
  const site = await newSite({ backends: ["a"] });
  await site.act("connect", { path: "/rooms/vip", client: "203.0.113.66", user: "mallory", requestID: "req-4711" });
  const page = await openAdmin(browser, site);
  await page.locator("#filters").getByLabel("Request ID").fill("req-4711");
  await page.locator("#tunnels-empty").getByText(/The request was refused at \d\d:\d\d:\d\d: admit, status 403/).waitFor();
  await page.locator("#filters").getByLabel("Request ID").fill("");
  await page.locator("#filters").getByLabel("Client").fill("203.0.113.66");
  await page.locator("#tunnels-empty").getByText(/The client's last request was refused/).waitFor();
  assert.deepEqual(page.faults, []);
});

test("with Redact there is no filter by value, which is hidden", async () => {
  const site = await newSite({ backends: ["a"], redact: true });
  await site.act("connect", { path: "/", client: "203.0.113.66", user: "ann" });
  const page = await openAdmin(browser, site);
  await page.locator("#tunnels tbody tr").getByText("203.0.113.0/24").waitFor();
  assert.equal(await page.locator("#filters").getByLabel("Value").isVisible(), false);
  assert.equal(await page.locator("#filters").getByLabel("Client").isVisible(), true);
  assert.doesNotMatch(await page.locator("body").textContent(), /203\.0\.113\.66/);
  assert.deepEqual(page.faults, []);
});
