// Drains backends and closes tunnels on the page. admin_test.go runs it and sets
//
//	CHROMIUM  the browser
//	SITES     the URL at which sites are started

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { launchBrowser } from "../browser/program.js";
import { newSite, openAdmin, row, timeout, waitForText } from "./site.js";

let browser;

before(async () => { browser = await launchBrowser(); });
after(() => browser.close());

const state = (page, id) => row(page, id).locator(".state");

test("a drain is seen live to its end", async () => {
  const site = await newSite({ backends: ["chat-1", "chat-2", "chat-3"] });
  await site.act("connect", { count: 90, path: "/rooms/general", client: "203.0.113.1" });
  const page = await openAdmin(browser, site);
  const other = await openAdmin(browser, site, { viewport: { width: 400, height: 800 } }); // another viewer
  await waitForText(page, "#headline", "All 3 backends are up");

  await page.getByRole("button", { name: "Drain chat-2" }).click();
  const dialog = page.getByRole("dialog", { name: "Drain chat-2?" });
  assert.match(await dialog.textContent(), /Its 30 tunnels are closed with 1012.*to one of the 2 other backends/);
  await page.getByLabel("Close them over").selectOption("10 seconds");
  await waitForText(page, "#drain-pace", "Closes 30 tunnels over 10 s, about 3 a second.");
  await dialog.getByRole("button", { name: "Drain", exact: true }).click();
  await dialog.waitFor({ state: "hidden" });

  // Its figures fall, second by second, for both viewers.
  for (const p of [page, other]) {
    const seen = new Set();
    const deadline = Date.now() + timeout;
    while (await state(p, "chat-2").textContent() !== "drained") {
      const [, left] = (await row(p, "chat-2").textContent()).match(/(\d+) of \d+ left/) ?? [];
      if (left) seen.add(Number(left));
      assert.ok(Date.now() < deadline, `chat-2 is not drained; seen ${[...seen]}`);
      await sleep(50);
    }
    if (p === page) assert.ok(seen.size >= 4, `only ${[...seen]} tunnels were seen to be left`);
    assert.deepEqual([...seen], [...seen].sort((a, b) => b - a));
  }
  assert.match(await row(page, "chat-2").textContent(), /no tunnels left: it can be stopped/);
  await waitForText(page, "#headline", "chat-2 drains");
  await page.locator("#events li", { hasText: /ann.*drain chat-2/ }).waitFor();
  await page.locator("#events li", { hasText: "proxy drain" }).first().waitFor();

  await page.getByRole("button", { name: "Resume chat-2" }).click();
  await page.getByRole("dialog", { name: "Resume chat-2?" }).getByRole("button", { name: "Resume", exact: true }).click();
  for (const p of [page, other]) await state(p, "chat-2").getByText("up", { exact: true }).waitFor();
  await waitForText(page, "#headline", "All 3 backends are up");
  assert.deepEqual([...page.faults, ...other.faults], []);
});

test("the keyboard alone drains a backend", async () => {
  const site = await newSite({ backends: ["chat-1", "chat-2"] });
  await site.act("connect", { count: 20, path: "/rooms/general", client: "203.0.113.1" });
  const page = await openAdmin(browser, site);
  await page.getByRole("button", { name: "Drain chat-1" }).waitFor();
  const focused = () => page.evaluate(() => document.activeElement.ariaLabel || document.activeElement.textContent.trim());
  const outline = () => page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  const tabTo = async (name) => {
    for (let i = 0; i < 40 && await focused() !== name; i++) await page.keyboard.press("Tab");
    assert.equal(await focused(), name);
    assert.equal(await outline(), "solid", `the focus of ${name} is not visible`);
  };

  await tabTo("Drain chat-1");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Drain chat-1?" }).waitFor();
  await page.keyboard.press("Escape"); // not yet
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  assert.equal(await focused(), "Drain chat-1");

  await page.keyboard.press("Enter");
  await page.getByLabel("Close them over").focus();
  await page.keyboard.press("ArrowUp"); // 30 seconds
  await page.keyboard.press("ArrowUp"); // 10 seconds
  await tabTo("Drain");
  await page.keyboard.press("Enter");
  await state(page, "chat-1").getByText("draining", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Resume chat-1" }).waitFor();
  assert.equal(await focused(), "Resume chat-1"); // the same button: the focus is not lost
  await state(page, "chat-1").getByText("drained", { exact: true }).waitFor();
  assert.deepEqual(page.faults, []);
});

test("a tunnel is found by its request ID, and closed with a code", async () => {
  const site = await newSite({ backends: ["chat-1", "chat-2"] });
  await site.act("connect", { count: 40, path: "/rooms/general", client: "203.0.113.1", user: "bob" });
  const client = await browser.newPage();
  await client.goto(`${site.url}/admin/overview`); // any page of the origin
  await client.evaluate((url) => new Promise((opened, failed) => {
    window.socket = new WebSocket(url);
    window.socket.onopen = opened;
    window.socket.onerror = failed;
    window.ended = new Promise((done) => { window.socket.onclose = ({ code, reason }) => done({ code, reason }); });
  }), `${site.url.replace("http:", "ws:")}/ws`);
  // The ID of a log line, or of the header of a backend's request.
  const { tunnels: [{ request_id: id }] } = await (await fetch(`${site.admin}tunnels?client=127.0.0.1`)).json();

  const page = await openAdmin(browser, site);
  const rows = page.locator("#tunnels tbody tr");
  await rows.nth(24).waitFor();
  await waitForText(page, "#tunnels-summary", "41 open, the first 25 are shown");
  await page.locator("#filters").getByLabel("Request ID").fill(id);
  await waitForText(page, "#tunnels-summary", "1 of 41 open");
  assert.equal(await rows.count(), 1);
  assert.match(await rows.textContent(), /127\.0\.0\.1.*\/ws/);

  await page.getByRole("button", { name: /^Close tunnel/ }).click();
  const dialog = page.getByRole("dialog", { name: /^Close tunnel \d+\?$/ });
  assert.ok((await dialog.textContent()).includes(id));
  await page.getByLabel("Code").fill("1005"); // may not be sent
  await dialog.getByRole("button", { name: "Close tunnel" }).click();
  await page.getByRole("alert").getByText("1005").waitFor();
  await page.getByLabel("Code").fill("4000");
  await page.getByLabel("Reason").fill("signed out");
  await dialog.getByRole("button", { name: "Close tunnel" }).click();
  assert.deepEqual(await client.evaluate(() => window.ended), { code: 4000, reason: "signed out" });
  await dialog.waitFor({ state: "hidden" });
  await page.locator("#tunnels-empty").getByText(/proxy application, code 4000/).waitFor(); // what became of it
  await page.locator("#events li", { hasText: /ann.*close \d+, closing with 4000/ }).waitFor();
  await page.getByRole("button", { name: "Clear" }).click();
  await waitForText(page, "#tunnels-summary", "40 open, the first 25 are shown");
  // The browser reports the response to the code that may not be sent.
  assert.deepEqual(page.faults.filter((f) => !f.includes("400 (Bad Request)")), []);
});

test("tunnels are filtered and ordered", async () => {
  const site = await newSite({ backends: ["chat-1", "chat-2"] });
  await site.act("connect", { count: 3, path: "/rooms/a", client: "203.0.113.1", user: "bob" });
  await site.act("connect", { count: 2, path: "/rooms/b", client: "198.51.100.1", user: "cleo" });
  await site.act("talk", { count: 1, client: "198.51.100.200" });
  const page = await openAdmin(browser, site);
  const summary = (text) => waitForText(page, "#tunnels-summary", text);
  const first = page.locator("#tunnels tbody tr").first();
  await summary("6 open");
  await page.locator("#filters").getByLabel("Value").fill("CLEO");
  await summary("2 of 6 open");
  await page.locator("#filters").getByLabel("Client").fill("198.51.100.0/24");
  await page.locator("#filters").getByLabel("Value").fill("");
  await summary("3 of 6 open");
  await page.locator("#filters").getByLabel("Client").fill("");
  await page.locator("#filters").getByLabel("Backend").selectOption("chat-1");
  await summary("3 of 6 open");
  await page.getByRole("button", { name: "Clear" }).click();
  await summary("6 open");
  await page.getByText("Busiest").click();
  await first.getByText("bot").waitFor();
  await page.getByText("Oldest").click();
  await first.getByText("203.0.113.1", { exact: true }).waitFor();
  await page.getByText("Quietest").click();
  await first.getByText(/203\.0\.113|198\.51\.100\.[12]$/).first().waitFor();
  assert.deepEqual(page.faults, []);
});
