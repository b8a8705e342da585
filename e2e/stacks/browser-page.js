// The page of browser-client.js.

import { Inbox, perform } from "./message.js";

// run returns the result of an order.
window.run = async (order) => {
  const result = { extensions: "", texts: [], pongs: [] };
  const socket = new WebSocket(order.url);
  socket.binaryType = "arraybuffer";
  const inbox = new Inbox();
  socket.onopen = () => { inbox.put({ kind: "open" }); };
  socket.onmessage = ({ data }) => {
    const isText = typeof data === "string";
    inbox.put({ kind: "message", isText, payload: isText ? new TextEncoder().encode(data) : new Uint8Array(data) });
  };
  socket.onerror = () => { inbox.put({ kind: "error", error: "the event error" }); };
  socket.onclose = ({ code, reason, wasClean }) => {
    inbox.put(wasClean ? { kind: "closed", code, reason } : { kind: "error", error: `not clean: ${code}` });
  };
  try {
    await inbox.want("open");
    result.extensions = socket.extensions;
    await perform(order, connectionOf(socket, inbox), result);
  } catch (error) {
    result.error = error.message;
    socket.close();
  }
  return result;
};

function connectionOf(socket, inbox) {
  return {
    inbox,
    async send({ text }, payload) { socket.send(text === undefined ? payload : new TextDecoder().decode(payload)); },
    ping() { throw new Error("a page cannot send a ping"); },
    close(code, reason) { code === 1005 ? socket.close() : socket.close(code, reason); },
  };
}
