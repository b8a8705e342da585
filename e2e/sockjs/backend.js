// A backend with the SockJS server of others:
//
//	node backend.js NAME PREFIX...
//
// It prints its URL. It answers each message with its name, the number of the answer, and the
// message. SockJS is at PREFIX/chat, and PREFIX/page has sockjs-client and the functions of page.js.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import sockjs from "sockjs";

const [name, ...prefixes] = process.argv.slice(2);
const files = {
  "page": ["text/html", '<!doctype html><link rel="icon" href="data:,"><script src="sockjs.js"></script><script src="page.js"></script>'],
  "sockjs.js": ["text/javascript", await readFile(createRequire(import.meta.url).resolve("sockjs-client/dist/sockjs.min.js"))],
  "page.js": ["text/javascript", await readFile(new URL("page.js", import.meta.url))],
};
const server = createServer((request, response) => {
  const [type, body] = files[request.url.split("/").pop()] ?? ["text/plain", "not found"];
  response.writeHead(type === "text/plain" ? 404 : 200, { "Content-Type": type });
  response.end(body);
});

const sessions = sockjs.createServer({
  response_limit: 1000, // so that streams end, and the client opens the next one
  log() {},
});
sessions.on("connection", (connection) => {
  let number = 0;
  connection.on("data", (message) => {
    connection.write(JSON.stringify({ backend: name, number: number++, message }));
  });
});
for (const prefix of prefixes) {
  sessions.installHandlers(server, { prefix: `${prefix}/chat` });
}

server.listen(0, "127.0.0.1");
await once(server, "listening");
console.log(`http://127.0.0.1:${server.address().port}`);
process.stdin.on("end", () => { process.exit(); }).resume();
