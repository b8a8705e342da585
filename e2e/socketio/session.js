// A session of socket.io-client, in a page and in Node.js.

// session returns the functions of a session with the namespaces / and /second.
export function session(io) {
  const history = []; // of errors, ends and transports
  let sockets, manager, conversation;

  // connect returns the state when both namespaces are connected. With the option
  // "reconnection: false" it fails if they cannot be.
  async function connect(url, options) {
    sockets = ["/", "/second"].map((namespace) => io(url + namespace, options));
    manager = sockets[0].io;
    manager.on("open", () => {
      const { engine } = manager;
      engine.on("upgrade", (transport) => { history.push(`upgrade: ${transport.name}`); });
      engine.on("upgradeError", (e) => { history.push(`upgradeError: ${text(e)}`); });
      engine.on("close", (reason, e) => { history.push(`close: ${reason}: ${text(e)}`); });
    });
    manager.on("error", (e) => { history.push(`error: ${text(e)}`); });
    const hasFailed = () => options?.reconnection === false && history.some((line) => /^(error|close)/.test(line));
    await until(() => sockets.every((s) => s.connected) || hasFailed());
    if (hasFailed()) {
      throw new Error(history.join("; "));
    }
    return state();
  }

  // text has the status and the body of an answer to a request that has failed.
  function text(e) {
    return [e?.message, e?.description?.message ?? e?.description, e?.context?.responseText].filter(Boolean).join(": ");
  }

  function state() {
    const { engine } = manager;
    return { isConnected: sockets.every((s) => s.connected), transport: engine.transport?.name, id: engine.id, history };
  }

  // upgraded returns the state when the transport is a WebSocket.
  async function upgraded() {
    await until(() => sockets.every((s) => s.connected) && manager.engine.transport?.name === "websocket");
    return state();
  }

  // send sends messages in both namespaces, one after the other, and returns the
  // acknowledgements.
  async function send(messages) {
    const acknowledgements = [];
    for (let i = 0; i < messages; i++) {
      for (const socket of sockets) {
        acknowledgements.push(await socket.timeout(10_000).emitWithAck("message", i));
      }
    }
    return acknowledgements;
  }

  // converse sends messages until endConversation is called. Those that are not acknowledged are
  // sent again, after a reconnection too, if the options have "retries" and "ackTimeout".
  function converse() {
    let isOver = false;
    const sending = (async () => {
      const result = { acknowledged: 0, backends: [] };
      while (!isOver) {
        for (const socket of sockets) {
          const { backend } = await new Promise((done, failed) => {
            socket.emit("message", result.acknowledged, (e, answer) => { e ? failed(e) : done(answer); });
          });
          result.acknowledged++;
          if (result.backends.at(-1) !== backend) {
            result.backends.push(backend);
          }
        }
        await new Promise((done) => { setTimeout(done, 20); });
      }
      return result;
    })();
    conversation = () => { isOver = true; return sending; };
  }

  async function endConversation() {
    return { ...await conversation(), ...state() };
  }

  async function until(condition) {
    for (const end = Date.now() + 30_000; !condition();) {
      if (Date.now() > end) {
        throw new Error(`timeout: ${JSON.stringify(state())}`);
      }
      await new Promise((done) => { setTimeout(done, 10); });
    }
  }

  return { connect, converse, endConversation, send, state, upgraded };
}
