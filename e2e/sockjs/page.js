// The functions of a page: see backend.js.

// runSessions runs sessions of sockjs-client at once, and returns what came of each.
function runSessions(prefix, transports, sessions, messages) {
  const url = location.origin + prefix;
  // By default a transport has hardly a second to connect, which is too little for a busy browser.
  const options = { transports, timeout: 20_000 };
  return Promise.all(Array.from({ length: sessions },
    () => runSession(new SockJS(url, null, options), messages)));
}

// runChat is the front end of an old chat, for browsers of which not all have WebSocket.
function runChat(prefix, messages) {
  const host = location.host + prefix;
  if ("WebSocket" in window) {
    return runSession(new WebSocket(`ws://${host}/websocket`), messages);
  }
  if ("MozWebSocket" in window) {
    return runSession(new MozWebSocket(`ws://${host}/websocket`), messages);
  }
  return runSession(new SockJS(`http://${host}`), messages);
}

// runSession sends numbered messages, one to three at once, and waits for the answers. If the
// session ends, or an answer is missing or out of order, that is the error of the result.
function runSession(socket, messages) {
  const result = { transport: "", backends: [], answers: 0, error: "" };
  let sent = 0;
  const send = () => {
    for (const end = Math.min(messages, sent + 1 + sent % 3); sent < end; sent++) {
      socket.send(String(sent));
    }
  };
  return new Promise((done) => {
    const finish = (error) => {
      socket.onclose = socket.onmessage = null;
      clearTimeout(timer);
      result.error = error;
      done(result);
      socket.close();
    };
    const timer = setTimeout(() => { finish("timeout"); }, 60_000);
    socket.onopen = () => {
      result.transport = socket.transport ?? `raw ${socket.constructor.name}`;
      send();
    };
    socket.onclose = (e) => { finish(`closed: ${e.code} ${e.reason}`); };
    socket.onmessage = ({ data }) => {
      const { backend, number, message } = JSON.parse(data);
      if (!result.backends.includes(backend)) {
        result.backends.push(backend);
      }
      if (number !== result.answers || message !== String(result.answers)) {
        finish(`answer ${number} to message ${message}; want ${result.answers}`);
        return;
      }
      result.answers++;
      if (result.answers === messages) {
        finish("");
      } else if (result.answers === sent) {
        send();
      }
    };
  });
}
