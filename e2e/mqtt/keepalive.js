// Leaves a connection idle but for keepalive pings of MQTT, and checks that it lives. mqtt_test.go
// runs it with the URL of the proxy.

import assert from "node:assert/strict";
import { connect, nextOrClose } from "./connect.js";

const { client, sockets } = await connect(process.argv[2], { keepalive: 1 }); // the broker waits for 1.5 s
await client.subscribeAsync("idle");
for (let pongs = 0; pongs < 4; ) {
  const [packet] = await nextOrClose(client, "packetreceive");
  if (packet.cmd === "pingresp") pongs++;
}
const message = nextOrClose(client, "message");
await client.publishAsync("idle", "still here");
assert.equal(String((await message)[1]), "still here");
assert.equal(sockets.length, 1);
await client.endAsync();
