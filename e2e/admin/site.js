// What the tests share: sites, and pages that record their faults.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

export const timeout = 20_000; // of a step

// newSite starts a site: see sites_test.go.
export async function newSite(config) {
  const { number, url } = await post(`${process.env.SITES}/sites`, config);
  return {
    url, admin: `${url}/admin/`,
    act: (action, args = {}) => post(`${process.env.SITES}/sites/${number}/${action}`, args),
  };
}

async function post(url, body) {
  const response = await fetch(url, { method: "POST", body: JSON.stringify(body) });
  assert.ok(response.ok, `${url}: ${response.status} ${await response.clone().text()}`);
  return response.json();
}

// openAdmin opens the admin page of a site, and waits until it has figures. Its faults are what
// the console, scripts and the Content-Security-Policy report.
export async function openAdmin(browser, site, options = {}) {
  const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })).newPage();
  page.setDefaultTimeout(timeout);
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(error.message));
  page.on("dialog", (dialog) => { page.faults.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) page.faults.push(message.text()); });
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== site.url) page.faults.push(`request to ${request.url()}`);
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI}`));
  });
  await page.goto(site.admin);
  await waitForText(page, "#connection-state", "Live");
  return page;
}

// waitForText waits until the element has the text, or text that the pattern matches.
export async function waitForText(page, selector, want) {
  const deadline = Date.now() + timeout;
  for (;;) {
    const got = await page.locator(selector).textContent();
    if (want instanceof RegExp ? want.test(got) : got === want) return got;
    if (Date.now() > deadline) assert.fail(`${selector} = ${JSON.stringify(got)}; want ${want}`);
    await sleep(20);
  }
}

// waitForRefreshes waits until n more overviews are shown, one of which comes each second.
export async function waitForRefreshes(page, n) {
  await page.evaluate((n) => new Promise((done) => {
    const observer = new MutationObserver(() => { if (--n === 0) { observer.disconnect(); done(); } });
    observer.observe(document.getElementById("refreshed"), { characterData: true, childList: true, subtree: true });
  }), n);
}

export const row = (page, id) => page.locator(`#backends tr[data-id="${id}"]`);

// assertFits checks that the page is not wider than the window, and that no text of a button or
// of a state is cut off.
export async function assertFits(page) {
  assert.deepEqual(await page.evaluate(() => {
    const found = [];
    if (document.documentElement.scrollWidth > innerWidth) found.push(`the page is ${document.documentElement.scrollWidth} px wide`);
    for (const e of document.querySelectorAll("button, .state, .figure, h2, #headline, .reasons li:first-child")) {
      if (e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0) found.push(`"${e.textContent}" is cut off`);
      const { left, right } = e.getBoundingClientRect();
      if (left < 0 || right > innerWidth) found.push(`"${e.textContent}" is outside of the window`);
    }
    return found;
  }), []);
}
