// A server as Node.js makes it, with its own limit for idle connections. On one line it prints
// its URL, the limit, which is 5 s, and the time in ms after which it does close an idle connection:
// 5 s in older releases, 6 s in later ones. A response has the time in ms for which the connection
// was idle before, unless it is a new one. The argument is the time in ms that a response takes.

import { once } from "node:events";
import { createServer } from "node:http";
import { connect } from "node:net";

const delay = Number(process.argv[2]);
const idleSince = new WeakMap(); // by connection

const server = createServer((request, response) => {
  const connection = request.socket;
  if (idleSince.has(connection)) {
    response.setHeader("Idle", performance.now() - idleSince.get(connection));
  }
  response.on("finish", () => { idleSince.set(connection, performance.now()); });
  request.resume();
  setTimeout(() => { response.end("hello"); }, delay);
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
console.log(JSON.stringify({
  url: `http://127.0.0.1:${server.address().port}`,
  limit: server.keepAliveTimeout,
  closesAfter: server.keepAliveTimeout + await reserve(),
}));

process.stdin.on("end", () => { process.exit(); }).resume(); // also if the test is killed

// reserve returns how much longer than its limit a server keeps a connection. Not every release
// that adds something says so in keepAliveTimeoutBuffer.
async function reserve() {
  const other = createServer((_, response) => { response.end(); });
  other.keepAliveTimeout = 100;
  other.listen(0, "127.0.0.1");
  await once(other, "listening");
  const connection = connect(other.address().port, "127.0.0.1");
  connection.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await once(connection, "data");
  const start = performance.now();
  await once(connection, "end");
  const time = performance.now() - start;
  connection.end();
  other.close();
  return time < 600 ? 0 : 1000;
}
