// The functions of a Browser: see browser.go.

import { launchBrowser } from "../../browser/program.js";
import { serve } from "./remote.js";

// Without these, each host name has a process of its own.
const browser = await launchBrowser("--disable-site-isolation-trials", "--renderer-process-limit=3");
const profiles = new Map(); // promises of them
const pages = [];

function profile(name) {
  if (!profiles.has(name)) {
    profiles.set(name, browser.newContext({ ignoreHTTPSErrors: true }));
  }
  return profiles.get(name);
}

await serve({
  async open(url, options) {
    const page = await (await profile(options.profile)).newPage();
    page.on("console", (message) => { console.error(`${url}: ${message.text()}`); });
    page.on("pageerror", (e) => { console.error(`${url}: ${e}`); });
    if (options.init) {
      await page.addInitScript(options.init);
    }
    const response = await page.goto(url);
    if (!response.ok()) {
      throw new Error(`${url}: ${response.status()}`);
    }
    return pages.push(page) - 1;
  },
  call(id, name, ...args) {
    return pages[id].evaluate(([name, args]) => globalThis[name](...args), [name, args]);
  },
  evaluate(id, expression) { return pages[id].evaluate(expression); },
  async waitFor(id, expression) { await pages[id].waitForFunction(expression); },
  close(id) { return pages[id].close(); },
  async cookies(name) { return (await profile(name)).cookies(); },
});
await browser.close();
