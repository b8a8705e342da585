// Checks what the page looks like while a backend fails, another one drains, and clients are
// refused. admin_test.go runs it and sets
//
//	CHROMIUM     the browser
//	SITES        the URL at which sites are started
//	SCREENSHOTS  the directory for screenshots
//	PICTURE      set if one of them is the picture of README.md

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launchBrowser } from "../browser/program.js";
import { assertFits, newSite, openAdmin, row, waitForRefreshes, waitForText } from "./site.js";

let browser, site, life;
let isOver = false;
const backgrounds = new Map(); // by colour scheme

before(async () => {
  browser = await launchBrowser();
  site = await newSite({ backends: ["chat-1", "chat-2", "chat-3", "chat-4"], maxTunnels: 1000, checks: true });
  await site.act("connect", { count: 1180, stays: true, path: "/rooms/general", client: "203.0.113.1", user: "ann" });
  await site.act("talk", { count: 12, client: "198.51.100.200" });
  await site.act("behave", { backend: "chat-3", behavior: "down" });
  life = live();
  const drained = await fetch(`${site.admin}drain`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ backend: "chat-4", over_seconds: 600 }),
  });
  assert.equal(drained.status, 202);
});
after(async () => {
  isOver = true;
  await life;
  await browser.close();
});

// live lets clients come and go, some of which are refused.
async function live() {
  for (let i = 0; !isOver; i++) {
    const host = `203.0.113.${i % 250}`;
    await site.act("connect", { count: 3 + i % 4, path: "/rooms/general", client: host, user: "bob" });
    await site.act("leave", { count: 2 + i % 6 });
    if (i % 3 === 0) await site.act("connect", { path: "/rooms/vip", client: host, user: "mallory" });
    if (i % 4 === 0) await site.act("connect", { path: "/rooms/general", client: host, origin: "https://evil.example" });
    await new Promise((done) => setTimeout(done, 150));
  }
}

for (const colorScheme of ["light", "dark"]) {
  for (const [width, height] of [[1280, 1180], [400, 800]]) {
    test(`what is wrong stands out, ${width} px, ${colorScheme}`, async () => {
      const page = await openAdmin(browser, site, { viewport: { width, height }, colorScheme, reducedMotion: "reduce" });
      await waitForText(page, "#headline", /1 of 4 backends is failing.*chat-4 drains/i);
      await row(page, "chat-3").getByText("check failed").waitFor();
      assert.equal(await row(page, "chat-3").getAttribute("data-state"), "failing");
      assert.match(await row(page, "chat-3").textContent(), /failing ?since \d\d:\d\d:\d\d.*connection refused/);
      assert.match(await row(page, "chat-4").textContent(), /draining ?since .*\d+ of \d+ left/);
      assert.match(await row(page, "chat-1").textContent(), /up.*\d+ of 1,000/);
      assert.match(await page.locator("#problems").textContent(), /chat-3 .*connection refused/);
      await page.locator("#events li", { hasText: "admit" }).first().waitFor();
      await page.locator("#events li", { hasText: "origin" }).first().waitFor();

      await waitForRefreshes(page, process.env.PICTURE && width === 1280 && colorScheme === "light" ? 100 : 4); // the picture has a past
      await page.screenshot({ path: `${process.env.SCREENSHOTS}/${width}-${colorScheme}.png` });
      await page.screenshot({ path: `${process.env.SCREENSHOTS}/${width}-${colorScheme}-full.png`, fullPage: true });
      await assertFits(page);
      assert.deepEqual(await lowContrasts(page), []);
      backgrounds.set(colorScheme, await page.evaluate(() => getComputedStyle(document.body).backgroundColor));

      // The dialog fits, too.
      await page.getByRole("button", { name: "Drain chat-1" }).click();
      await page.screenshot({ path: `${process.env.SCREENSHOTS}/${width}-${colorScheme}-dialog.png` });
      await assertFits(page);
      assert.deepEqual(await lowContrasts(page), []);
      assert.deepEqual(page.faults, []);
      await page.context().close();
    });
  }
}

test("the dark mode has other colours", () => {
  assert.equal(backgrounds.size, 2);
  assert.notEqual(backgrounds.get("light"), backgrounds.get("dark"));
});

for (const width of [1280, 400]) {
  test(`tunnels show the whole ID of a backend that is named by its URL, ${width} px`, async () => {
    const calm = await newSite({ backends: ["http://10.244.113.207:8080", "http://10.244.113.208:8080"] });
    await calm.act("connect", { count: 2, path: "/rooms/general", client: "198.51.100.7", user: "ann" });
    const page = await openAdmin(browser, calm, { viewport: { width, height: 800 } });
    await page.locator("#tunnels tbody tr").nth(1).waitFor();
    assert.deepEqual(await page.locator("#tunnels tbody tr > :nth-child(3) *").evaluateAll(
      (all) => all.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.textContent)), []);
    assert.match(await page.locator("#tunnels tbody").textContent(), /10\.244\.113\.207:8080/);
    await page.context().close();
  });
}

test("the reasons that need an operator are first, and an error of two attempts has no prefixes", async () => {
  const calm = await newSite({ backends: ["a", "b"], noQueue: true });
  for (let i = 0; i < 2; i++) await calm.act("connect", { path: "/", client: "198.51.100.7", origin: "https://evil.example" });
  for (const backend of ["a", "b"]) await calm.act("behave", { backend, behavior: "down" });
  await calm.act("connect", { path: "/", client: "198.51.100.7", user: "ann" });
  const page = await openAdmin(browser, calm);
  // The last minute has it when its second is over.
  await page.locator("#totals .total").nth(3).locator(".parts li span").nth(2).filter({ hasText: /^unreachable$/ }).waitFor();
  const text = await page.locator("#events li", { hasText: "unreachable" }).last().textContent();
  assert.match(text, /refused; dial backend/);
  assert.doesNotMatch(text, /wsproxy:/);
  await page.context().close();
});

test("what peers send stays text", async () => {
  const calm = await newSite({ backends: ["a"] });
  await calm.act("connect", { path: "/<img src=x onerror=alert(1)>", client: "198.51.100.7", user: "<b>bold</b><script>alert(2)</script>" });
  const page = await openAdmin(browser, calm);
  await page.locator("#filters").getByLabel("Client").fill("198.51.100.7");
  await page.locator("#tunnels tbody tr").getByText("<b>bold</b><script>alert(2)</script>", { exact: true }).waitFor();
  await page.locator("#tunnels tbody tr").getByText("chat.example/<img src=x onerror=alert(1)>", { exact: true }).waitFor();
  assert.equal(await page.locator("#tunnels img, #tunnels b, #tunnels script").count(), 0);
  await page.getByRole("button", { name: /^Close tunnel/ }).click();
  assert.match(await page.locator("#close-facts").textContent(), /<b>bold<\/b>.*<img src=x onerror=alert\(1\)>/);
  assert.equal(await page.locator("dialog img, dialog b, dialog script").count(), 0);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("nothing moves while figures change", async () => {
  const calm = await newSite({ backends: ["a", "b", "c"], maxTunnels: 1000 });
  await calm.act("connect", { count: 95, path: "/rooms/general", client: "203.0.113.1", user: "ann" });
  await calm.act("talk", { count: 5, client: "198.51.100.200" });
  const page = await openAdmin(browser, calm);
  await page.locator("#tunnels tbody tr").nth(24).waitFor();
  await waitForRefreshes(page, 3);
  await page.evaluate(() => {
    window.shifts = [];
    // The lists of events are for what is new: that comes at their top.
    const isList = (node) => (node?.nodeType === 3 ? node.parentElement : node)?.closest?.("#events ol, #problems");
    new PerformanceObserver((list) => {
      for (const shift of list.getEntries()) {
        for (const { node, previousRect: from, currentRect: to } of shift.sources) {
          const isLonger = from.top === to.top && Math.abs(from.right - to.right) < 1; // a figure that ends where it did
          if (!isList(node) && !isLonger) window.shifts.push(`${node?.textContent?.slice(0, 40)}: ${JSON.stringify(from)} to ${JSON.stringify(to)}`);
        }
      }
    }).observe({ type: "layout-shift" });
  });
  const before = await boxes(page);
  for (let i = 0; i < 6; i++) { // more digits, other causes, other figures
    await calm.act("connect", { count: 10 * (i + 1), path: "/rooms/general", client: "203.0.113.200", user: "bob" });
    if (i % 2) await calm.act("connect", { path: "/rooms/vip", client: "203.0.113.200", user: "mallory" });
    await waitForRefreshes(page, 1);
    assert.deepEqual(await boxes(page), before);
  }
  assert.deepEqual(await page.evaluate(() => window.shifts), []);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

// boxes returns where the parts of the page are.
const boxes = (page) => page.evaluate(() => [...document.querySelectorAll(
  "header.top > *, .verdict, .total, .total > *, .inside, .inside > div, .panel, #backends th, #backends td, #backends button, #filters > *, #tunnels th, #tunnels td",
)].map((e) => {
  const { x, y, width, height } = e.getBoundingClientRect();
  return `${e.tagName} ${e.id || e.className}: ${[x, y, width, height].map(Math.round)}`;
}));

// lowContrasts returns the texts whose contrast to what is behind them is below 4.5:1.
const lowContrasts = (page) => page.evaluate(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const parse = (color) => { // any colour of CSS, as red, green, blue from 0 to 255 and alpha from 0 to 1
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const luminance = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = walker.nextNode(); n; n = walker.nextNode()) {
    const e = n.parentElement;
    if (!n.data.trim() || !e.checkVisibility() || e.closest(":disabled, script, noscript")) continue;
    const back = behind(e);
    const [light, dark] = [luminance(over(parse(getComputedStyle(e).color), back)), luminance(back)].sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < 4.5) found.add(`${e.tagName} ${e.className} "${n.data.slice(0, 20)}" ${contrast.toFixed(2)}`);
  }
  return [...found];
});
