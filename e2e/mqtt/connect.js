// What the scripts share: a connection to a broker through the proxy.

import { once } from "node:events";
import mqtt from "mqtt";
import WebSocket from "ws";

// connect returns an MQTT client that is connected, and its WebSockets, one for each connection.
export async function connect(url, options) {
  const sockets = [];
  const client = mqtt.connect(url, {
    ...options,
    createWebsocket(url, protocols) {
      const socket = new WebSocket(url, protocols);
      sockets.push(socket);
      return socket;
    },
  });
  await nextOrClose(client, "connect"); // a client that fails would try again and again
  client.on("error", (err) => {
    throw err;
  });
  return { client, sockets };
}

// nextOrClose waits for an event. It throws if the connection ends before.
export async function nextOrClose(client, event) {
  const done = new AbortController();
  const closed = once(client, "close", { signal: done.signal }).then(() => {
    throw new Error(`the connection has ended before ${event}`);
  });
  try {
    return await Promise.race([once(client, event, { signal: done.signal }), closed]);
  } finally {
    done.abort();
    closed.catch(() => {});
  }
}
