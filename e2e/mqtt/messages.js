// Publishes 1,000 messages with each quality of service and both versions of MQTT, and checks
// that they come in order. mqtt_test.go runs it with the URL of the proxy.

import assert from "node:assert/strict";
import { connect } from "./connect.js";

const url = process.argv[2];
const count = 1000;

// One message is large: the broker takes 0.3 s for it.
const sizes = [0, 1, 100, 130, 2000];

function payload(i) {
  const size = i === count / 2 ? 70_000 : sizes[i % sizes.length];
  return Buffer.concat([Buffer.from(`${i} `), Buffer.alloc(size, i)]);
}

for (const protocolVersion of [4, 5]) {
  for (const qos of [0, 1, 2]) {
    const topic = `messages/${protocolVersion}/${qos}`;
    const subscriber = await connect(url, { protocolVersion });
    const publisher = await connect(url, { protocolVersion });
    for (const { sockets } of [subscriber, publisher]) {
      assert.equal(sockets[0].protocol, "mqtt");
    }
    const [granted] = await subscriber.client.subscribeAsync(topic, { qos });
    assert.equal(granted.qos, qos);

    let received = 0;
    const all = new Promise((resolve) => {
      subscriber.client.on("message", (_, message, packet) => {
        assert.ok(message.equals(payload(received)), `message ${received} of ${topic} begins with ${message.subarray(0, 10)}`);
        assert.equal(packet.qos, qos);
        assert.equal(packet.dup, false);
        received++;
        if (received === count) resolve();
      });
    });
    const published = [];
    for (let i = 0; i < count; i++) {
      published.push(publisher.client.publishAsync(topic, payload(i), { qos }));
    }
    await Promise.all(published);
    await all;
    for (const { client, sockets } of [subscriber, publisher]) {
      await client.endAsync();
      assert.equal(sockets.length, 1, "a connection was lost");
    }
    assert.equal(received, count, "a message came twice");
    console.log(`MQTT ${protocolVersion}, QoS ${qos}: ${received} messages in order`);
  }
}
