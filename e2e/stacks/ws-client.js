// A client with the npm package ws. For each order, a line of JSON, it prints a result: see
// cases_test.go. Its argument is the file of the certificate that it trusts.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import WebSocket from "ws";
import { cut, Inbox, perform } from "./message.js";

const ca = readFileSync(process.argv[2]);

const compressions = {
  "": false,
  "takeover": {},
  "no takeover": { serverNoContextTakeover: true, clientNoContextTakeover: true },
};

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await run(JSON.parse(line))));
}

async function run(order) {
  const result = { extensions: "", texts: [], pongs: [] };
  const socket = new WebSocket(order.url, {
    ca, maxPayload: 0, perMessageDeflate: compressions[order.compression],
  });
  const inbox = new Inbox();
  socket.on("upgrade", (response) => {
    result.extensions = response.headers["sec-websocket-extensions"] ?? "";
  });
  socket.on("open", () => { inbox.put({ kind: "open" }); });
  socket.on("message", (payload, isBinary) => { inbox.put({ kind: "message", isText: !isBinary, payload }); });
  socket.on("pong", (payload) => { inbox.put({ kind: "pong", text: payload.toString() }); });
  socket.on("error", (error) => { inbox.put({ kind: "error", error: error.message }); });
  socket.on("close", (code, reason) => { inbox.put({ kind: "closed", code, reason: reason.toString() }); });
  try {
    await inbox.want("open");
    await perform(order, connectionOf(socket, inbox), result);
  } catch (error) {
    result.error = error.message;
    socket.terminate();
  }
  return result;
}

function connectionOf(socket, inbox) {
  return {
    inbox,
    async send({ text, fragments = 1 }, payload) {
      const parts = cut(payload, fragments);
      for (const [i, part] of parts.entries()) {
        socket.send(part, { binary: text === undefined, fin: i === parts.length - 1 });
      }
    },
    ping(payload) { socket.ping(payload); },
    close(code, reason) { code === 1005 ? socket.close() : socket.close(code, reason); },
  };
}
