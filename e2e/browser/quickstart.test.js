// Drives the page of examples/quickstart in Chromium. browser_test.go runs it and sets
//
//	CHROMIUM     the browser
//	QUICKSTART   the program
//	SCREENSHOTS  the directory for screenshots
//
// Each test starts a quickstart of its own, and performs its steps in order.

import assert from "node:assert/strict";
import { get } from "node:http";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { launchBrowser, startProgram } from "./program.js";

const screenshots = process.env.SCREENSHOTS;
const timeout = 15_000; // of a step
let browser;

before(async () => { browser = await launchBrowser(); });
after(() => browser.close());

for (const colorScheme of ["light", "dark"]) {
  for (const [width, height] of [[1280, 860], [400, 800]]) {
    test(`page, ${width} px, ${colorScheme}`, async () => {
      const demo = await startQuickstart();
      const page = await browser.newPage({ viewport: { width, height }, colorScheme });
      try {
        await drive(page, demo, { width, colorScheme });
      } catch (error) {
        await page.screenshot({ path: `${screenshots}/${width}-${colorScheme}-failed.png`, fullPage: true });
        throw error;
      } finally {
        await page.close();
        await demo.stop();
      }
    });
  }
}

// startQuickstart runs the program, and returns its URL and a function that ends it.
async function startQuickstart() {
  const { url, child, exited } = await startProgram(process.env.QUICKSTART, ["-listen", "127.0.0.1:0"], /http:\S+(?=\/\?room)/);
  return { url, stop: async () => { child.kill("SIGTERM"); assert.deepEqual(await exited, [0, null]); } };
}

async function drive(page, demo, { width, colorScheme }) {
  const isPhone = width < 1000;
  page.setDefaultTimeout(timeout);
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => {
    // The browser itself reports a WebSocket that is refused.
    if (message.type() === "error" && !message.text().startsWith("WebSocket connection to")) faults.push(message.text());
  });
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(demo.url).origin) faults.push(`request to ${request.url()}`);
  });
  const shoot = async (name, options = {}) => {
    await settle(page);
    await page.screenshot({ path: `${screenshots}/${width}-${colorScheme}-${name}.png`, ...options });
  };
  const headline = (text) => waitForText(page, "#headline", text);
  const button = (action, id) => page.getByRole("button", { name: `${action} backend ${id}`, exact: true });
  const person = (name) => page.getByRole("article", { name: `${name} in` });

  // Two people, side by side, without a second tab.
  await page.goto(demo.url);
  assert.equal(await page.getByRole("heading", { level: 1 }).textContent(), " wsproxy");
  await headline("Everyone in #design is on backend A");
  assert.equal(await page.getByRole("article").count(), 2);
  const admin = new URL(await page.getByRole("link", { name: "Admin page" }).getAttribute("href"), demo.url);
  assert.equal((await page.request.get(admin.href)).status(), 200);
  const [ann, bob] = [await person("Ann").boundingBox(), await person("Bob").boundingBox()];
  if (isPhone) assert.ok(bob.y >= ann.y + ann.height, "Bob is not below Ann");
  else assert.ok(bob.y === ann.y && bob.x >= ann.x + ann.width, "Ann and Bob are not side by side");
  await say(person("Ann"), "I just finished the sketches.");
  await person("Bob").getByText("I just finished the sketches.").waitFor();
  await say(person("Bob"), "Well done! I just pinned them up.");
  await person("Ann").getByText("Well done!").waitFor();

  // More people, one dot for each, and the number at each line.
  await page.getByRole("combobox", { name: "Room" }).selectOption("support");
  await page.getByRole("button", { name: "Add a person" }).click();
  await headline(/Everyone in #design is on backend A.*Everyone in #support is on backend B/s);
  await say(person("Cleo"), "Hello from #support.");
  assert.deepEqual(await clientsOn(page, "A"), ["Ann in #design", "Bob in #design"]);
  assert.deepEqual(await clientsOn(page, "B"), ["Cleo in #support"]);
  assert.equal(await page.locator('.count[data-backend="A"]').textContent(), "2");
  assert.equal(await page.locator('.count[data-backend="B"]').textContent(), "1");
  assert.match(await page.locator("#rooms").ariaSnapshot(), /#design backend A[^]*#support backend B/);
  await page.evaluate(() => document.activeElement.blur());
  await page.evaluate(() => scrollTo(0, 0));
  await page.mouse.move(0, 0);
  await shoot("start");
  if (isPhone) await shoot("start-full", { fullPage: true });
  await assertNoOverlap(page);

  // A backend stops. Its dots move, and the effect is on the screen.
  await watchMoves(page);
  await button("Stop", "A").scrollIntoViewIfNeeded();
  await button("Stop", "A").focus();
  await page.keyboard.press("Enter");
  await headline("Everyone in #design is on backend B");
  assert.deepEqual(await moves(page), ["Ann in #design", "Bob in #design"]);
  assert.deepEqual(await clientsOn(page, "A"), []);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Start backend A");
  await waitForText(page, "#backend-A .state", "stopped");
  assert.doesNotMatch(await page.locator("#rooms").ariaSnapshot(), /backend A/);
  for (const selector of ["#headline", "#backend-A", "#backend-B"]) await assertOnScreen(page, selector);
  await person("Ann").getByText("Closed: backend A is stopping. Code 1001.").waitFor();
  await person("Ann").getByText("Now on backend B. It does not have the messages above.").waitFor();
  for (const kind of ["picked", "attempted", "opened", "closed", "backend"]) {
    await page.locator("#events .kind", { hasText: kind }).first().waitFor();
  }
  await shoot("stopped");
  if (isPhone) await shoot("stopped-full", { fullPage: true });
  await assertNoOverlap(page);

  // It starts again. The room follows the next person.
  await button("Start", "A").click();
  await waitForText(page, "#hint", /Now #design belongs to backend A/);
  await page.getByRole("combobox", { name: "Room" }).selectOption("design");
  await page.getByRole("button", { name: "Add a person" }).click();
  await headline("Everyone in #design is on backend A");
  assert.deepEqual((await clientsOn(page, "A")).sort(), ["Ann in #design", "Bob in #design", "Dan in #design"]);

  // It is drained, and resumed.
  const rejoin = async () => { // a person of #design comes anew
    await page.getByRole("button", { name: "Remove Dan" }).click();
    await page.locator('.dot[title="Dan in #design"]').waitFor({ state: "detached" }); // then the name is free
    await page.getByRole("button", { name: "Add a person" }).click();
    await headline("Everyone in #design is on backend A");
    assert.deepEqual((await clientsOn(page, "A")).sort(), ["Ann in #design", "Bob in #design", "Dan in #design"]);
  };
  await button("Drain", "A").click();
  await waitForText(page, "#backend-A .state", /^drain(ing|ed)$/);
  await page.getByText("Backend A drains. Code 1012.").first().waitFor();
  await headline("Everyone in #design is on backend B");
  await waitForText(page, "#backend-A .state", "drained");
  await waitForText(page, "#hint", /Backend A is drained/);
  assert.doesNotMatch(await page.locator("#rooms").ariaSnapshot(), /backend A/);
  await page.locator("#events li", { hasText: "A has no tunnels left" }).first().waitFor();
  await shoot("drained");
  await assertNoOverlap(page);
  await button("Resume", "A").click();
  await waitForText(page, "#backend-A .state", "running");
  await waitForText(page, "#hint", /Now #design belongs to backend A/);
  await rejoin();

  // It is frozen. The health check finds it, and the page shows the flag. It continues.
  await button("Freeze", "A").focus();
  await page.keyboard.press("Enter");
  await waitForText(page, "#backend-A .state", "frozen");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Continue backend A");
  await waitForText(page, "#backend-A .flags", /^check failed since \d\d:\d\d:\d\d: .*deadline exceeded$/);
  await waitForText(page, "#hint", /backend A does not answer/);
  await page.getByText("Backend A does not answer. Code 1012.").first().waitFor();
  await headline("Everyone in #design is on backend B");
  await page.locator("#events .kind", { hasText: "health" }).first().waitFor();
  await shoot("frozen");
  if (isPhone) await shoot("frozen-full", { fullPage: true });
  await assertNoOverlap(page);
  await button("Continue", "A").click();
  await waitForText(page, "#backend-A .state", "running");
  await waitForText(page, "#backend-A .flags", "");
  await rejoin();

  // A third backend.
  await page.getByRole("button", { name: "Add backend C" }).click();
  await page.locator("#backend-C").waitFor();
  await page.locator("#add-backend").waitFor({ state: "hidden" });
  await shoot("three");
  await assertNoOverlap(page);

  // Another tab has people of its own. Both tabs show a dot for each.
  const other = await page.context().browser().newPage();
  await other.goto(`${demo.url}/?room=B%C3%BCro-2`);
  await waitForText(other, "#headline", /Everyone in #Büro-2 is on backend [ABC]/);
  assert.equal(await other.locator(".dot").count(), 6);
  await page.locator('.dot[title="Eve in #Büro-2"]').waitFor();
  await other.close();
  await page.locator('.dot[title="Eve in #Büro-2"]').waitFor({ state: "detached" });

  // A backend crashes. The page does not show it as serving a room.
  await button("Crash", "A").click();
  await person("Ann").getByText("Backend A dropped the connection. Code 1012.").waitFor();
  await waitForText(page, "#backend-A .state", "crashed");
  await headline(/Everyone in #design is on backend [BC]/);
  assert.doesNotMatch(await page.locator("#rooms").ariaSnapshot(), /backend A/);
  await page.locator("#events li", { hasText: "backend A failed: connection refused" }).first().waitFor();

  // All have crashed: the page names the status that the proxy answers.
  for (const id of ["B", "C"]) {
    await button("Crash", id).click();
    await waitForText(page, `#backend-${id} .state`, "crashed");
  }
  await headline(/Everyone in #design is offline/);
  const crashed = await statusOf(demo.url);
  assert.equal(crashed, "503 Service Unavailable");
  await waitForText(page, "#hint", `No backend is running. The proxy answers ${crashed}.`);
  await person("Ann").getByText(`Offline (${crashed}).`).waitFor();
  await page.locator("#events li", { hasText: crashed }).first().waitFor();
  await shoot("offline");
  if (isPhone) await shoot("offline-full", { fullPage: true });
  await assertNoOverlap(page);

  // A crashed backend restarts, and then all are stopped: another status.
  for (const [action, state] of [["Start", "running"], ["Stop", "stopped"]]) {
    for (const id of ["A", "B", "C"]) {
      await button(action, id).click();
      await waitForText(page, `#backend-${id} .state`, state);
    }
  }
  const stopped = await statusOf(demo.url);
  assert.equal(stopped, "503 Service Unavailable");
  await person("Ann").getByText(`Offline (${stopped}).`).waitFor();

  // They come back, also after a reload, and leave.
  await button("Start", "C").click();
  await waitForText(page, "#backend-C .state", "running");
  await page.reload();
  await headline(/Everyone in #design is on backend C/);
  await person("Cleo").getByText("Connected to backend C.").waitFor();
  await page.getByRole("button", { name: "Remove Cleo" }).click();
  await page.locator('.dot[title="Cleo in #support"]').waitFor({ state: "detached" });
  assert.deepEqual((await clientsOn(page, "C")).sort(), ["Ann in #design", "Bob in #design", "Dan in #design"]);
  assert.deepEqual(faults, []);
}

async function say(person, text) {
  await person.getByText("Connected to backend").waitFor();
  await person.getByLabel("Message from").fill(text);
  await person.getByRole("button", { name: "Send" }).click();
}

// waitForText waits until the element has the text, or text that the pattern matches.
async function waitForText(page, selector, want) {
  const deadline = Date.now() + timeout;
  for (;;) {
    const got = await page.locator(selector).textContent();
    if (want instanceof RegExp ? want.test(got) : got.split("\n").includes(want)) return;
    if (Date.now() > deadline) assert.fail(`${selector} = ${JSON.stringify(got)}; want ${want}`);
    await sleep(20);
  }
}

// settle waits until no animation runs, and two frames have been drawn.
async function settle(page) {
  await page.waitForFunction(() => document.getAnimations().length === 0);
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

const clientsOn = (page, id) => page.locator(`#backend-${id} .dot`).evaluateAll((dots) => dots.map((d) => d.title));

// watchMoves records the dots that move, until moves is called.
const watchMoves = (page) => page.evaluate(() => {
  window.moved = new Set();
  const look = () => {
    for (const a of document.getAnimations()) {
      if (a.effect.target?.classList.contains("dot")) window.moved.add(a.effect.target.title);
    }
    requestAnimationFrame(look);
  };
  look();
});
const moves = (page) => page.evaluate(() => [...window.moved].sort());

// statusOf returns the response to an upgrade that the proxy refuses.
async function statusOf(url) {
  const request = get(new URL("/chat?room=design", url), {
    agent: false,
    headers: {
      Connection: "Upgrade", Upgrade: "websocket",
      "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    },
  });
  const response = await new Promise((resolve, reject) => {
    request.on("response", resolve).on("upgrade", resolve).on("error", reject);
  });
  response.destroy();
  return `${response.statusCode} ${response.statusMessage}`;
}

async function assertOnScreen(page, selector) {
  const box = await page.locator(selector).boundingBox();
  const { height } = page.viewportSize();
  assert.ok(box.y >= 0 && box.y + box.height <= height, `${selector} is at ${JSON.stringify(box)}, not on the screen`);
}

// assertNoOverlap checks that no two parts of the page overlap, that none is cut off, and
// that the page is not wider than the window.
async function assertNoOverlap(page) {
  await settle(page);
  const faults = await page.evaluate(() => {
    const parts = [...document.querySelectorAll(
      "h1, .top p, #headline, #hint, .proxy, .offline h3, .dot, .count, .backend h3, .backend p, .backend > .tile, " +
      ".backend button, .flags li, #add-backend, #rooms-title, #rooms li, .person header > *, .messages, .connection, .say > *, " +
      ".add > *, .events h2, #events",
    )].filter((e) => e.checkVisibility());
    const boxes = parts.map((e) => e.getBoundingClientRect());
    const name = (e) => `${e.tagName.toLowerCase()}.${e.className || e.id} "${e.textContent.slice(0, 30)}"`;
    const found = [];
    for (const [i, a] of boxes.entries()) {
      if (a.left < 0 || a.right > innerWidth) found.push(`${name(parts[i])} is outside of the window`);
      for (const [j, b] of boxes.entries()) {
        if (j <= i || parts[i].contains(parts[j])) continue;
        const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (x > 1 && y > 1) found.push(`${name(parts[i])} overlaps ${name(parts[j])}`);
      }
    }
    for (const e of document.querySelectorAll("button, .proxy span, #headline, #hint, .connection span, .backend p, .flags li")) {
      if (e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0) found.push(`${name(e)} is cut off`);
    }
    if (document.documentElement.scrollWidth > innerWidth) found.push("the page is wider than the window");
    return found;
  });
  assert.deepEqual(faults, []);
}
