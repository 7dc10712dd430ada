"""Real WebSockets through a proxy: the `websockets` library over HTTP/1.1, `h2` over RFC 8441.

    websocket_calls.py serve                     an echo server on a free port, which it prints
    websocket_calls.py h1 URL [CA]               talks to it over HTTP/1.1
    websocket_calls.py h2 HOST PORT NAME [CA]    talks to it over HTTP/2 (with TLS if there is a CA)

Prints a line for what worked and ends with 1 at the first that did not.
"""

import asyncio
import os
import socket
import ssl
import struct
import sys

PATIENCE = 60


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: got {found!r}, expected {wanted!r}")
    print(what, "ok", flush=True)


async def serve():
    from websockets.asyncio.server import serve

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, subprotocols=["echo"], max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


async def over_h1(url, ca=None):
    from websockets.asyncio.client import connect

    context = ssl.create_default_context(cafile=ca) if ca else None
    async with connect(url, ssl=context, subprotocols=["echo"], max_size=None) as connection:
        expect("subprotocol", connection.subprotocol, "echo")
        await connection.send("hello")
        expect("text", await connection.recv(), "hello")
        big = bytes(range(256)) * 4096 * 4
        sending = asyncio.create_task(connection.send(big))
        expect("4 MiB", await connection.recv() == big, True)
        await sending
        await asyncio.wait_for(await connection.ping(), PATIENCE)
        print("ping ok", flush=True)
    expect("close", connection.close_code, 1000)


class Tunnel:
    """A WebSocket in a stream of HTTP/2 (RFC 8441), frame by frame."""

    def __init__(self, host, port, name, ca=None):
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        if ca:
            context = ssl.create_default_context(cafile=ca)
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname=name)
            expect("alpn", self.socket.selected_alpn_protocol(), "h2")
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.received, self.headers, self.ended = b"", None, False
        self.flush()
        # RFC 8441 §3: nothing may be asked for before the server has said that it knows it.
        self.wait(lambda: self.h2.remote_settings.enable_connect_protocol == 1)
        scheme = "https" if ca else "http"
        self.h2.send_headers(1, [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", scheme),
            (":path", "/chat"), (":authority", name), ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "echo"), ("origin", f"{scheme}://{name}"),
        ])
        self.flush()
        self.wait(lambda: self.headers is not None)

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def wait(self, until):
        import h2.events as events

        while not until():
            data = self.socket.recv(65536)
            if not data:
                sys.exit("the connection was closed")
            for event in self.h2.receive_data(data):
                match event:
                    case events.ResponseReceived():
                        self.headers = {bytes(name).decode(): bytes(value).decode()
                                        for name, value in event.headers}
                    case events.DataReceived():
                        self.received += event.data
                        if event.flow_controlled_length:
                            self.h2.acknowledge_received_data(event.flow_controlled_length, 1)
                    case events.StreamEnded():
                        self.ended = True
                    case events.StreamReset() | events.ConnectionTerminated():
                        sys.exit(f"broken off: {event}")
            self.flush()

    def send(self, opcode, payload):
        mask = os.urandom(4)
        length = len(payload)
        if length < 126:
            head = bytes([0x80 | opcode, 0x80 | length])
        elif length < 65536:
            head = bytes([0x80 | opcode, 0x80 | 126]) + struct.pack(">H", length)
        else:
            head = bytes([0x80 | opcode, 0x80 | 127]) + struct.pack(">Q", length)
        key = mask * (length // 4 + 1)
        masked = int.from_bytes(payload, "big") ^ int.from_bytes(key[:length], "big")
        rest = head + mask + masked.to_bytes(length, "big")
        while rest:
            room = min(self.h2.local_flow_control_window(1), self.h2.max_outbound_frame_size)
            if room == 0:
                before = self.h2.local_flow_control_window(1)
                self.wait(lambda: self.h2.local_flow_control_window(1) > before)
                continue
            self.h2.send_data(1, rest[:room])
            rest = rest[room:]
            self.flush()

    def take(self, count):
        self.wait(lambda: len(self.received) >= count)
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def message(self):
        opcode, length = self.take(2)
        if length == 126:
            (length,) = struct.unpack(">H", self.take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.take(8))
        return opcode & 0x0F, bool(opcode & 0x80), self.take(length)


def over_h2(host, port, name, ca=None):
    tunnel = Tunnel(host, port, name, ca)
    expect("status", tunnel.headers[":status"], "200")
    expect("subprotocol", tunnel.headers.get("sec-websocket-protocol"), "echo")
    expect("no field of the upgrade", {"upgrade", "connection", "sec-websocket-accept"} & tunnel.headers.keys(), set())
    tunnel.send(1, b"hello")
    expect("text", tunnel.message(), (1, True, b"hello"))
    tunnel.send(9, b"are you there")
    expect("ping", tunnel.message(), (10, True, b"are you there"))
    big = bytes(range(256)) * 4096
    tunnel.send(2, big)
    found, over = b"", False
    while not over:
        _, over, part = tunnel.message()
        found += part
    expect("1 MiB", found == big, True)
    tunnel.send(8, struct.pack(">H", 1000))
    expect("close", tunnel.message(), (8, True, struct.pack(">H", 1000)))
    tunnel.wait(lambda: tunnel.ended)
    print("end ok", flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            asyncio.run(serve())
        case ["h1", url, *ca]:
            asyncio.run(over_h1(url, *ca))
        case ["h2", host, port, name, *ca]:
            over_h2(host, port, name, *ca)
        case _:
            sys.exit(__doc__)
