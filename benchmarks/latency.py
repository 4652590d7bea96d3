"""A client that sends one mail at a time over one connection, and says when each 250 was read.

python benchmarks/latency.py --port 2525 --mails 200 --pause 0.02

Prints one JSON object: the monotonic time of the 250 by the number in `Subject: load NUMBER`.
"""

import argparse
import json
import socket
import time
from typing import Final

from load import message

PER_CONNECTION: Final = 50


def reply(client: socket.socket, buffer: bytearray) -> bytes:
    """Return the next final line."""
    while True:
        line, parted, rest = bytes(buffer).partition(b"\r\n")
        if parted:
            buffer[:] = rest
            if line[3:4] != b"-":
                return line
            continue
        octets = client.recv(65_536)
        if not octets:
            raise ConnectionError("the server closed the connection")
        buffer += octets


def connected(port: int, buffer: bytearray) -> socket.socket:
    """Return a connection that has greeted."""
    client = socket.create_connection(("127.0.0.1", port), 30)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reply(client, buffer)
    client.sendall(b"EHLO load.example\r\n")
    reply(client, buffer)
    return client


def main() -> None:
    """Read the command line, send, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mails", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two mails")
    parser.add_argument("--rcpt", default="joe@live.example")
    options = parser.parse_args()
    accepted: dict[int, float] = {}
    buffer = bytearray()
    client = connected(options.port, buffer)
    for number in range(options.mails):
        if number and number % PER_CONNECTION == 0:
            client.sendall(b"QUIT\r\n")
            reply(client, buffer)
            client.close()
            client = connected(options.port, buffer)
        client.sendall(b"MAIL FROM:<load@sender.example>\r\nRCPT TO:<%b>\r\nDATA\r\n" % options.rcpt.encode())
        for _ in range(3):
            reply(client, buffer)
        client.sendall(message(5120, number) + b".\r\n")
        if not reply(client, buffer).startswith(b"250"):
            raise ConnectionError("a mail was not taken")
        accepted[number] = time.monotonic()
        time.sleep(options.pause)
    client.close()
    print(json.dumps(accepted))


if __name__ == "__main__":
    main()
