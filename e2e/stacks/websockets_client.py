"""A client with the package websockets.

For each order, a line of JSON, it prints a result: see cases_test.go. Its argument is the file
of the certificate that it trusts.
"""

import asyncio
import json
import ssl
import sys
import time

import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from websockets_message import cut, payload_of

COMPRESSIONS = {
    "": [],
    "takeover": [ClientPerMessageDeflateFactory()],
    "no takeover": [
        ClientPerMessageDeflateFactory(
            server_no_context_takeover=True, client_no_context_takeover=True
        )
    ],
}


async def run(order, tls):
    result = {"extensions": "", "texts": [], "pongs": []}
    options = {"ssl": tls} if order["url"].startswith("wss:") else {}
    try:
        async with websockets.connect(
            order["url"],
            compression=None,
            extensions=COMPRESSIONS[order["compression"]],
            max_size=None,
            ping_interval=None,
            close_timeout=20,
            **options,
        ) as connection:
            fields = connection.response_headers.get_all("Sec-WebSocket-Extensions")
            result["extensions"] = ", ".join(fields)
            for step in order["steps"]:
                await take(step, connection, result)
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
    return result


async def take(step, connection, result):
    """Take a step of an order."""
    if "echo" in step:
        sent = payload_of(step["echo"])
        fragments = step["echo"].get("fragments", 1)
        await connection.send(sent if fragments == 1 else cut(sent, fragments))
        got = await connection.recv()
        if got != sent:
            raise ValueError(f"sent {len(sent)}; got {len(got)} others, {type(got)}")
    elif "messages" in step:
        for _ in range(step["messages"]):
            result["texts"].append(await connection.recv())
    elif "ping" in step:
        await (await connection.ping(step["ping"].encode()))
        result["pongs"].append(step["ping"])  # only this one is taken for the answer
    else:
        start = time.monotonic()
        if "close" in step:
            await connection.close(step["close"], step.get("reason", ""))
        else:
            await connection.wait_closed()
        result.update(
            code=connection.close_code,
            reason=connection.close_reason,
            seconds=time.monotonic() - start,
        )


async def main():
    tls = ssl.create_default_context(cafile=sys.argv[1])
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await run(json.loads(line), tls)), flush=True)


asyncio.run(main())
