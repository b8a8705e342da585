"""A server with the package websockets, on four listeners.

It prints their URLs on one line, and a report for each connection that has ended: see
servers_test.go. Its argument is the directory with certificates and for the unix socket.
"""

import asyncio
import json
import os
import ssl
import sys
from urllib.parse import parse_qs, urlsplit

import websockets
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from websockets_message import cut

COMPRESSIONS = {
    "": [],
    "takeover": [ServerPerMessageDeflateFactory()],
    "no takeover": [
        ServerPerMessageDeflateFactory(
            server_no_context_takeover=True, client_no_context_takeover=True
        )
    ],
}


def query_of(path):
    return parse_qs(urlsplit(path).query, keep_blank_values=True)


class Protocol(websockets.WebSocketServerProtocol):
    """A connection whose compression is in the query."""

    def process_extensions(self, headers, _):
        compression = query_of(self.path).get("compression", [""])[0]
        return super().process_extensions(headers, COMPRESSIONS[compression])


async def serve(connection):
    query = query_of(connection.path)
    try:
        await act(connection, query)
    except websockets.ConnectionClosed:
        pass
    await connection.wait_closed()
    report = {
        "id": int(query["id"][0]),
        "offer": ", ".join(connection.request_headers.get_all("Sec-WebSocket-Extensions")),
        "code": connection.close_code,
        "reason": connection.close_reason,
    }
    print(json.dumps(report), flush=True)


async def act(connection, query):
    if "close" in query:
        await connection.close(int(query["close"][0]), query["reason"][0])
        return
    for payload in query.get("ping", []):
        await (await connection.ping(payload.encode()))
        await connection.send("pong " + payload)
    fragments = int(query.get("fragments", ["1"])[0])
    async for message in connection:
        await connection.send(message if fragments == 1 else cut(message, fragments))


async def main():
    directory = sys.argv[1]
    file = lambda name: os.path.join(directory, name)
    options = dict(
        create_protocol=Protocol, compression=None, max_size=None, ping_interval=None, close_timeout=20
    )

    async def listen(tls):
        server = await websockets.serve(serve, "127.0.0.1", 0, ssl=tls, **options)
        return server.sockets[0].getsockname()[1]

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file("server.pem"), file("server.key"))
    mutual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mutual.load_cert_chain(file("server.pem"), file("server.key"))
    mutual.load_verify_locations(file("ca.pem"))
    mutual.verify_mode = ssl.CERT_REQUIRED
    unix = file("websockets.sock")
    await websockets.unix_serve(serve, unix, **options)
    urls = {
        "ws": f"http://127.0.0.1:{await listen(None)}",
        "wss": f"https://127.0.0.1:{await listen(tls)}",
        "wss, certificate": f"https://127.0.0.1:{await listen(mutual)}",
        "unix": f"unix://{unix}",
    }
    print(json.dumps(urls), flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)  # until the test ends, or is killed


asyncio.run(main())
