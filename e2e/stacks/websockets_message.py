"""What the client and the server with the package websockets share."""


def payload_of(message):
    """Return the payload of a message: see messages in cases_test.go."""
    if "text" in message:
        return message["text"] * message["count"]
    size = message.get("size", 0)
    block = bytes(range(251))
    return (block * (size // len(block) + 1))[:size]


def cut(payload, n):
    """Cut a payload into n parts. A text is cut between characters."""
    length = -(-len(payload) // n)
    return [payload[i * length : (i + 1) * length] for i in range(n)]
