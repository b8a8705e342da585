// A server with the npm package ws, on four listeners. It prints their URLs on one line, and a
// report for each connection that has ended: see servers_test.go. Its argument is the directory
// with certificates and for the unix socket.

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTLSServer } from "node:https";
import { join } from "node:path";
import { WebSocketServer } from "ws";
import { cut } from "./message.js";

const dir = process.argv[2];
const file = (name) => readFileSync(join(dir, name));
const certificate = { cert: file("server.pem"), key: file("server.key"), ca: file("ca.pem") };

const noTakeover = { serverNoContextTakeover: true, clientNoContextTakeover: true };
const servers = {
  "": newServer(false),
  "takeover": newServer({}),
  "no takeover": newServer(noTakeover),
};

function newServer(perMessageDeflate) {
  return new WebSocketServer({ noServer: true, maxPayload: 0, perMessageDeflate });
}

function upgrade(request, socket, head) {
  const query = new URL(request.url, "http://x").searchParams;
  servers[query.get("compression") ?? ""].handleUpgrade(request, socket, head, (connection) => {
    serve(connection, query, request.headers["sec-websocket-extensions"] ?? "");
  });
}

function serve(connection, query, offer) {
  connection.on("error", () => {}); // the event "close" follows
  connection.on("close", (code, reason) => {
    console.log(JSON.stringify({ id: Number(query.get("id")), offer, code, reason: reason.toString() }));
  });
  const code = Number(query.get("close"));
  if (code) {
    code === 1005 ? connection.close() : connection.close(code, query.get("reason"));
    return;
  }
  const pings = query.getAll("ping");
  const pingNext = () => { if (pings.length > 0) connection.ping(pings.shift()); };
  connection.on("pong", (payload) => {
    connection.send(`pong ${payload}`);
    pingNext();
  });
  pingNext();
  connection.on("message", (payload, binary) => {
    const parts = cut(payload, Number(query.get("fragments") ?? 1));
    for (const [i, part] of parts.entries()) {
      connection.send(part, { binary, fin: i === parts.length - 1 });
    }
  });
}

async function listen(server, ...address) {
  server.on("upgrade", upgrade);
  server.listen(...address);
  await once(server, "listening");
  return server.address().port;
}

const local = [0, "127.0.0.1"];
const unix = join(dir, "ws.sock");
await listen(createServer(), unix);
console.log(JSON.stringify({
  "ws": `http://127.0.0.1:${await listen(createServer(), ...local)}`,
  "wss": `https://127.0.0.1:${await listen(createTLSServer(certificate), ...local)}`,
  "wss, certificate": `https://127.0.0.1:${await listen(
    createTLSServer({ ...certificate, requestCert: true, rejectUnauthorized: true }), ...local)}`,
  "unix": `unix://${unix}`,
}));
process.stdin.on("end", () => process.exit()).resume(); // also if the test is killed
