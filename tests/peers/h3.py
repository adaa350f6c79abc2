"""A client of HTTP/3 that does what it is told: h3.py PORT CA NAME, with steps as JSON on standard input.

Each step is one of
  {"ask": {"headers": [[name, value]...], "body": size or text, "trailers": [[name, value]...], "end": bool,
           "pause": bool}}
      opens a stream; "pause" waits for the head of the answer before the body is sent
  {"more": [stream, text, end]}       sends more data on a stream
  {"await": [stream, what]}           waits for "head", "data" or "end" (a reset counts) of a stream
  {"ended": count}                    waits until so many streams have ended
  {"cancel": stream}                  gives a stream up
  {"shrink": stream}                  resets a stream with a final size below what was sent
  {"resets": count}                   opens so many streams and gives each up at once
  {"raw": hex, "end": bool}           opens a stream with these bytes
  {"uni": hex, "end": bool}           opens a stream in one direction with these bytes
  {"control": hex}                    sends these bytes on the control stream
  {"rebind": true}                    goes on from another port
  {"update": true}                    goes on with new keys
  {"closed": true}                    waits for the end of the connection
and what came is printed as JSON: {"streams": {id: {...}}, "closed": code or null, "goaway": id or null}.
"""

import asyncio
import json
import socket
import sys

from aioquic.asyncio import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

PATIENCE = 30


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.streams = {}
        self.closed = None
        self.changed = asyncio.Event()

    def stream(self, number):
        return self.streams.setdefault(
            number,
            {"head": [], "data": 0, "text": "", "trailers": [], "ended": False, "reset": None, "stopped": None},
        )

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.closed = event.error_code
        elif isinstance(event, StreamReset):
            self.stream(event.stream_id)["reset"] = event.error_code
        elif isinstance(event, StopSendingReceived):
            self.stream(event.stream_id)["stopped"] = event.error_code
        for event in self.http.handle_event(event):
            seen = self.stream(event.stream_id)
            if isinstance(event, HeadersReceived):
                fields = [[name.decode(), value.decode()] for name, value in event.headers]
                seen["trailers" if seen["head"] else "head"] = fields
            elif isinstance(event, DataReceived):
                seen["data"] += len(event.data)
                if len(seen["text"]) < 512:
                    seen["text"] += event.data[:512].decode(errors="replace")
            seen["ended"] = seen["ended"] or event.stream_ended
        self.changed.set()

    async def until(self, what):
        async def wait():
            while not what() and self.closed is None:
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(wait(), PATIENCE)

    def has(self, number, what):
        seen = self.stream(number)
        if what == "head":
            return seen["head"] or seen["reset"] is not None
        if what == "data":
            return seen["data"] or seen["reset"] is not None
        return seen["ended"] or seen["reset"] is not None

    async def do(self, step):
        (what, value), *_ = step.items()
        if what == "ask":
            number = self._quic.get_next_available_stream_id()
            self.stream(number)
            body, trailers = value.get("body"), value.get("trailers")
            end = value.get("end", True)
            fields = [(name.encode(), text.encode()) for name, text in value["headers"]]
            alone = body is None and trailers is None
            self.http.send_headers(number, fields, end_stream=end and alone)
            self.transmit()
            if value.get("pause"):
                await self.until(lambda: self.has(number, "head"))
            if body is not None:
                data = b"x" * body if isinstance(body, int) else body.encode()
                self.http.send_data(number, data, end_stream=end and trailers is None)
            if trailers is not None:
                fields = [(name.encode(), text.encode()) for name, text in trailers]
                self.http.send_headers(number, fields, end_stream=end)
        elif what == "more":
            number, text, end = value
            self.http.send_data(number, text.encode("latin-1"), end_stream=end)
        elif what == "await":
            self.transmit()
            await self.until(lambda: self.has(*value))
        elif what == "ended":
            self.transmit()
            await self.until(lambda: sum(self.has(number, "end") for number in self.streams) >= value)
        elif what == "cancel":
            self._quic.reset_stream(value, 0x10C)
            self._quic.stop_stream(value, 0x10C)
        elif what == "shrink":
            # What the sender believes to have sent is what a reset states.
            self._quic._streams[value].sender.highest_offset = 1
            self._quic.reset_stream(value, 0x10C)
        elif what == "resets":
            for _ in range(value):
                number = self._quic.get_next_available_stream_id()
                self._quic.send_stream_data(number, b"")
                self._quic.reset_stream(number, 0x10C)
                self.transmit()
                await asyncio.sleep(0)
        elif what in ("raw", "uni"):
            number = self._quic.get_next_available_stream_id(is_unidirectional=what == "uni")
            self._quic.send_stream_data(number, bytes.fromhex(value), end_stream=step.get("end", False))
        elif what == "control":
            self._quic.send_stream_data(self.http._local_control_stream_id, bytes.fromhex(value))
        elif what == "update":
            self._quic.request_key_update()
        elif what == "rebind":
            await self.rebind()
        elif what == "closed":
            self.transmit()
            await self.until(lambda: False)
        self.transmit()

    async def rebind(self):
        """Sends from another port from now on, as behind a NAT that forgot. Before that whatever connection ID
        it has taken up is shown on the old path: nobody in between could know it otherwise. The answer to the
        first ping may make it take up another."""
        for _ in range(3):
            await self.ping()
        loop = asyncio.get_running_loop()
        old, protocol = self._transport, self

        class Relay(asyncio.DatagramProtocol):
            def datagram_received(self, data, address):
                protocol.datagram_received(data, address)

        new = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        new.bind(("::ffff:127.0.0.1", 0))
        self._transport, _ = await loop.create_datagram_endpoint(Relay, sock=new)
        old.close()
        # Where the client is now is known when it says something, which it need not otherwise.
        self._quic.send_ping(0)
        self.transmit()


async def main(port, ca, name, steps):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
    configuration.load_verify_locations(ca)
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=Client
    ) as client:
        for step in steps:
            if client.closed is None:
                try:
                    await client.do(step)
                except asyncio.TimeoutError:
                    came = {number: (seen["head"], seen["data"]) for number, seen in client.streams.items()}
                    sys.exit(f"waited in vain in {step}; so far came {came}")
        goaway = getattr(client.http, "_goaway", None)
        shown = {"streams": client.streams, "closed": client.closed, "goaway": goaway}
        print(json.dumps(shown), flush=True)


asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], json.load(sys.stdin)))
