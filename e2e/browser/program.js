// What the tests share: the browser, and programs that they start.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { chromium } from "playwright-core";

export function launchBrowser(...args) {
  if (process.getuid() === 0) {
    args.push("--no-sandbox"); // it does not work for root
  }
  return chromium.launch({ executablePath: process.env.CHROMIUM, args });
}

// startProgram runs a program until it prints a URL that the pattern matches. It returns
// the URL, the process, and a promise of its exit status and signal.
export async function startProgram(file, args, pattern) {
  const child = spawn(file, args, { stdio: ["pipe", "pipe", "inherit"] });
  const exited = once(child, "exit");
  let output = "";
  for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) {
    output += chunk;
    const [url] = output.match(pattern) ?? [];
    if (url) {
      child.stdout.resume();
      return { url, child, exited };
    }
  }
  throw new Error(`${file} ${args.join(" ")} has ended:\n${output}`);
}
