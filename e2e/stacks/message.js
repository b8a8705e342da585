// What messages.go says of messages, for the clients and servers in JavaScript: in Node.js and
// in pages.

const encoder = new TextEncoder();

// payloadOf returns the payload of a message as bytes.
export function payloadOf({ text, count, size = 0 }) {
  if (text !== undefined) {
    return encoder.encode(text.repeat(count));
  }
  const payload = new Uint8Array(size);
  for (let i = 0; i < size; i++) {
    payload[i] = i % 251;
  }
  return payload;
}

// cut cuts a payload into n parts.
export function cut(payload, n) {
  const length = Math.ceil(payload.length / n);
  return Array.from({ length: n }, (_, i) => payload.subarray(i * length, (i + 1) * length));
}

// same reports whether two payloads are the same.
export function same(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

// An Inbox has what a connection receives: see event in peer_test.go.
export class Inbox {
  #events = [];
  #wake = () => {};

  put(event) {
    this.#events.push(event);
    this.#wake();
  }

  // want returns the next event, which must be of that kind.
  async want(kind) {
    while (this.#events.length === 0) {
      await new Promise((wake) => { this.#wake = wake; });
    }
    const event = this.#events.shift();
    if (event.kind !== kind) {
      const { code, reason, error } = event;
      throw new Error(`got ${JSON.stringify({ kind: event.kind, code, reason, error })}; want ${kind}`);
    }
    return event;
  }
}

// perform takes the steps of an order with a connection: see perform in peer_test.go.
export async function perform({ steps }, connection, result) {
  for (const step of steps) {
    if (step.echo) {
      const sent = payloadOf(step.echo);
      await connection.send(step.echo, sent);
      const got = await connection.inbox.want("message");
      if (got.isText !== (step.echo.text !== undefined) || !same(got.payload, sent)) {
        throw new Error(`sent ${sent.length} bytes; got ${got.payload.length} others, text ${got.isText}`);
      }
    } else if (step.messages) {
      for (let i = 0; i < step.messages; i++) {
        result.texts.push(new TextDecoder().decode((await connection.inbox.want("message")).payload));
      }
    } else if (step.ping !== undefined) {
      connection.ping(step.ping);
      result.pongs.push((await connection.inbox.want("pong")).text);
    } else {
      const start = performance.now();
      if (step.close) {
        connection.close(step.close, step.reason);
      }
      const { code, reason } = await connection.inbox.want("closed");
      Object.assign(result, { code, reason, seconds: (performance.now() - start) / 1000 });
    }
  }
}
