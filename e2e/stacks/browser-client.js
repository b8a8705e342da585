// A client in a page of Chromium. For each order, a line of JSON, it prints a result: see
// cases_test.go. CHROMIUM is the browser.

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { launchBrowser } from "../browser/program.js";

const files = {
  "/": ["text/html", "<!doctype html><title>stacks</title><script type=module src=browser-page.js></script>"],
  "/browser-page.js": ["text/javascript", readFileSync(new URL("browser-page.js", import.meta.url))],
  "/message.js": ["text/javascript", readFileSync(new URL("message.js", import.meta.url))],
};
const site = createServer((request, response) => {
  const [type, content] = files[request.url] ?? ["text/plain", ""];
  response.setHeader("Content-Type", type);
  response.end(content);
});
site.listen(0, "127.0.0.1");
await once(site, "listening");

const browser = await launchBrowser();
// The browser knows nothing of the certificates of the test.
const page = await browser.newPage({ ignoreHTTPSErrors: true });
await page.goto(`http://127.0.0.1:${site.address().port}/`);
await page.waitForFunction(() => window.run);

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await page.evaluate((order) => window.run(order), JSON.parse(line))));
}
await browser.close();
site.close();
