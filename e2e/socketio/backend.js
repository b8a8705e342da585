// A backend with Socket.IO:
//
//	node backend.js NAME [PORT]
//
// It prints its URL. In two namespaces it acknowledges each message with its name, and with how
// many messages of the connection it has received.

import { once } from "node:events";
import { createServer } from "node:http";
import { Server } from "socket.io";

const [name, port = "0"] = process.argv.slice(2);
const server = createServer();
const io = new Server(server, { cors: { origin: true, credentials: true } });
for (const namespace of ["/", "/second"]) {
  io.of(namespace).on("connection", (socket) => {
    let received = 0;
    socket.on("message", (message, acknowledge) => {
      acknowledge({ backend: name, namespace, message, received: ++received });
    });
  });
}
server.listen(Number(port), "127.0.0.1");
await once(server, "listening");
console.log(`http://127.0.0.1:${server.address().port}`);
process.stdin.on("end", () => { process.exit(); }).resume();
