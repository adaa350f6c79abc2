"""A server of HTTP/3 on aioquic: h3_server.py CERT KEY. Prints its port, and ends when its input does.

It answers every request with status 200, `x-served: aioquic` and the body of the request, or with as many bytes
as the path says (`/bytes/N`); trailers come back as trailers. `/reset` is reset, `/hints` is answered with a 103 first.
"""

import asyncio
import sys

from aioquic.asyncio import serve
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Server(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.requests = {}

    def quic_event_received(self, event):
        for event in self.http.handle_event(event):
            request = self.requests.setdefault(event.stream_id, {"head": None, "body": b"", "trailers": []})
            if isinstance(event, HeadersReceived):
                if request["head"] is None:
                    request["head"] = dict(event.headers)
                else:
                    request["trailers"] = event.headers
            elif isinstance(event, DataReceived):
                request["body"] += event.data
            if event.stream_ended:
                self.answer(event.stream_id, **request)
                del self.requests[event.stream_id]

    def answer(self, stream, head, body, trailers):
        path = head[b":path"]
        if path == b"/reset":
            self._quic.reset_stream(stream, 0x102)
            return self.transmit()
        if path == b"/hints":
            self.http.send_headers(stream, [(b":status", b"103"), (b"link", b"</a.css>")])
        if path.startswith(b"/bytes/"):
            body = b"x" * int(path.removeprefix(b"/bytes/"))
        self.http.send_headers(stream, [(b":status", b"200"), (b"x-served", b"aioquic")])
        self.http.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self.http.send_headers(stream, trailers, end_stream=True)
        self.transmit()


async def main(cert, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(cert, key)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Server)
    print(server._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


asyncio.run(main(*sys.argv[1:]))
