// Keeps clients that publish all the time, while one of two brokers is drained. mqtt_test.go runs
// it with the URL of the proxy and the number of clients. It prints
//
//	connected    when all clients are
//	reconnected  when half of them have been disconnected and all are connected again
//	a line of JSON at the end, which a line on the standard input asks for: of each client the
//	Close codes of its connections that have ended

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "./connect.js";

const [url, count] = [process.argv[2], Number(process.argv[3])];
let isEnding = false;

const clients = await Promise.all(Array.from({ length: count }, (_, i) => start(`client/${i}`)));
console.log("connected");
while (!clients.every((c) => c.client.connected) || clients.filter((c) => c.codes.length > 0).length < count / 2) {
  await Promise.race(clients.map((c) => once(c.client, "connect")));
}
console.log("reconnected");

await once(process.stdin, "data");
isEnding = true;
await Promise.all(clients.map((c) => c.finished));
const codes = clients.map((c) => c.codes.slice());
for (const c of clients) await c.client.endAsync();
console.log(JSON.stringify(codes));
process.exit(0);

// start connects a client, which publishes numbers to a topic of its own, one after the other.
async function start(topic) {
  const { client, sockets } = await connect(url, { reconnectPeriod: 50 });
  const codes = [];
  const watch = () => sockets.at(-1).addEventListener("close", (e) => codes.push(e.code));
  watch();
  client.on("connect", watch);
  await client.subscribeAsync(topic, { qos: 1 });

  let last = -1; // number received
  let lastConnect = 0; // number of the first message published after the last connect
  client.on("message", (_, message) => {
    const n = Number(message);
    // A broker that is left may have acknowledged a message, and not yet passed it on; and what
    // was not acknowledged is sent again.
    assert.ok(n === last + 1 || n === last || n >= lastConnect - 1 && last < lastConnect, `${topic}: ${n} came after ${last}`);
    last = n;
  });
  const finished = (async () => {
    let n = 0;
    client.on("connect", () => (lastConnect = n));
    while (!isEnding) await client.publishAsync(topic, String(n++), { qos: 1 });
    const first = n;
    for (; n < first + 100; n++) await client.publishAsync(topic, String(n), { qos: 1 });
    while (last < n - 1) await once(client, "message");
  })();
  return { client, codes, finished };
}
