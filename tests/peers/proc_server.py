"""A service for external processing (envoy.service.ext_proc.v3), made of Envoy's own messages.

What it does is named by the path of the request, or by `x-do` if that is given: see `Talk`. It tells the endpoint and the
client in `x-told` what it was sent so far, as a list of words. Prints its port.
"""
import json
import sys
import threading
from concurrent import futures

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf import json_format


def answer(kind, common=None, **more):
    """The answer to a part, with what changes in it."""
    inner = {"header_mutation": common or {}} if kind.endswith("trailers") else {"response": common or {}}
    return json_format.ParseDict({kind: inner, **more}, pb.ProcessingResponse())


def sets(*headers, remove=(), **action):
    """A change of headers, each a pair."""
    import base64
    option = lambda name, value: {
        "header": {"key": name, "raw_value": base64.b64encode(value.encode()).decode()}, **action}
    return {"set_headers": [option(*pair) for pair in headers], "remove_headers": list(remove)}


def respond(status, body=b"", details="", headers=None):
    response = pb.ProcessingResponse()
    response.immediate_response.status.code = status
    response.immediate_response.body = body
    response.immediate_response.details = details
    if headers:
        json_format.ParseDict(headers, response.immediate_response.headers)
    return response


def body_answer(kind, body):
    response = answer(kind)
    getattr(response, kind).response.body_mutation.body = body
    return response


def streamed(kind, body, last):
    response = answer(kind)
    piece = getattr(response, kind).response.body_mutation.streamed_response
    piece.body, piece.end_of_stream = body, last
    return response


OVERWRITE = {"append_action": 2}


class Talk:
    """One conversation."""

    def __init__(self, context):
        self.context, self.told, self.do, self.held = context, [], "", b""
        self.config = None

    def stall(self):
        done = threading.Event()
        if self.context.add_callback(done.set):
            done.wait(60)

    def answers(self, message):
        kind = message.WhichOneof("request")
        part = getattr(message, kind)
        if message.HasField("protocol_config"):
            self.config = message.protocol_config
        word = kind.replace("request_", "q-").replace("response_", "r-")
        if kind.endswith("body"):
            word += ":%d" % len(part.body)
        if not kind.endswith("trailers") and part.end_of_stream:
            word += "."
        self.told.append(word)
        if kind == "request_headers":
            headers = {one.key: one.raw_value.decode() for one in part.headers.headers}
            self.do = headers.get("x-do") or headers[":path"].split("?")[0].strip("/")
            self.seen = headers
        step = getattr(self, self.do.split("/")[0].replace("-", "_"), self.pass_on)
        return step(kind, part, message)

    def pass_on(self, kind, part, message):
        if kind.endswith("headers"):
            told = ("x-told", " ".join(self.told))
            yield answer(kind, {"header_mutation": sets(told, **OVERWRITE)})
        else:
            yield answer(kind)

    def change(self, kind, part, message):
        if kind == "request_headers":
            yield answer(kind, {
                "header_mutation": sets(("x-user", "ann"), ("x-seen", json.dumps(self.seen)),
                                        remove=["x-secret"], **OVERWRITE),
                "clear_route_cache": "reroute" in self.seen[":path"],
            }, dynamic_metadata={"shop": {"user": "ann"}, "other": {"user": "bob"}})
        elif kind == "response_headers":
            yield answer(kind, {"header_mutation": sets(("x-told", " ".join(self.told)), ("x-new", "yes"),
                                                        remove=["x-origin"], **OVERWRITE)})
        else:
            yield answer(kind)

    def forbidden(self, kind, part, message):
        change = sets(("host", "evil.test"), (":authority", "evil.test"), (":method", "PUT"), ("x-envoy-a", "1"),
                      ("content-length", "3"), ("transfer-encoding", "gzip"), ("connection", "x-user"),
                      ("x-sluice-hops", "9"), (":status", "204"), ("x-fine", "yes"),
                      remove=["host", ":path", "content-length"], **OVERWRITE)
        yield answer(kind, {"header_mutation": change} if kind.endswith("headers") else None)

    def path(self, kind, part, message):
        change = sets((":path", "/other?new=1"), **OVERWRITE)
        yield answer(kind, {"header_mutation": change, "clear_route_cache": True} if kind == "request_headers" else None)

    def upper(self, kind, part, message):
        if kind.endswith("body"):
            response = body_answer(kind, part.body.upper() + (b"!" if part.end_of_stream else b""))
            json_format.ParseDict(sets(("x-late", "yes"), ("content-length", "1")),
                                  getattr(response, kind).response.header_mutation)
            yield response
        elif kind.endswith("trailers"):
            yield answer(kind, sets(("x-more", "yes")))
        else:
            yield from self.pass_on(kind, part, message)

    def clear(self, kind, part, message):
        response = answer(kind)
        if kind.endswith("body"):
            getattr(response, kind).response.body_mutation.clear_body = True
        yield response

    def replace(self, kind, part, message):
        response = answer(kind)
        if kind.endswith("headers"):
            common = getattr(response, kind).response
            common.status, common.body_mutation.body = 1, b"replaced " + kind.encode()
        yield response

    def each(self, kind, part, message):
        """Streams each piece back, changed."""
        if kind.endswith("body"):
            yield streamed(kind, part.body.upper(), part.end_of_stream)
        elif kind.endswith("trailers"):
            yield answer(kind, sets(("x-more", "yes")))
        else:
            yield from self.pass_on(kind, part, message)

    def all(self, kind, part, message):
        """Streams the body back once it is there, in pieces of 1000 bytes."""
        if kind.endswith("headers"):
            yield from self.pass_on(kind, part, message)
            return
        ends = kind.endswith("trailers")
        body_kind = kind.replace("trailers", "body")
        if not ends:
            self.held += part.body
            if not part.end_of_stream:
                return
        held, self.held = self.held.upper(), b""
        pieces = [held[at:at + 1000] for at in range(0, len(held), 1000)] or [b""]
        for number, piece in enumerate(pieces):
            yield streamed(body_kind, piece, not ends and number + 1 == len(pieces))
        if ends:
            yield answer(kind, sets(("x-more", "yes")))

    def late_headers(self, kind, part, message):
        """Answers the headers of the request once its body is there."""
        if kind == "request_headers":
            return
        if kind == "request_body":
            self.held += part.body
            if part.end_of_stream:
                yield answer("request_headers", {"header_mutation": sets(("x-size", str(len(self.held))))})
                yield streamed(kind, self.held.upper(), True)
        else:
            yield from self.pass_on(kind, part, message)

    def deny(self, kind, part, message):
        """Responds to the part that the rest of the path names."""
        if kind == self.do.split("/")[1]:
            yield respond(403, b"not you", "policy 7", sets(("x-why", "no"), ("content-type", "text/html"),
                                                           ("content-length", "99")))
        else:
            yield from self.pass_on(kind, part, message)

    def odd_status(self, kind, part, message):
        yield respond(0, b"?")

    def override(self, kind, part, message):
        response = next(self.pass_on(kind, part, message))
        if kind == "request_headers":
            mode = response.mode_override
            mode.request_body_mode, mode.response_body_mode = 2, 1
            mode.response_header_mode, mode.response_trailer_mode = 2, 1
        if kind.endswith("body"):
            response = body_answer(kind, part.body.upper())
        yield response

    def more_time(self, kind, part, message):
        response = pb.ProcessingResponse()
        response.override_message_timeout.FromMilliseconds(30000)
        yield response
        # Longer than an answer may take otherwise.
        threading.Event().wait(4)
        yield from self.pass_on(kind, part, message)

    def attributes(self, kind, part, message):
        told = {name: json_format.MessageToDict(of) for name, of in message.attributes.items()}
        modes = [self.config.request_body_mode, self.config.response_body_mode]
        common = {"header_mutation": sets(("x-attributes", json.dumps(told)), ("x-modes", json.dumps(modes)))}
        yield answer(kind, common)

    def stall_at(self, kind, part, message):
        if kind == self.do.split("/")[1]:
            self.stall()
        else:
            yield from self.pass_on(kind, part, message)

    def close(self, kind, part, message):
        yield None

    def close_at(self, kind, part, message):
        if kind == self.do.split("/")[1]:
            yield None
        else:
            yield from self.pass_on(kind, part, message)

    def fail(self, kind, part, message):
        self.context.abort(grpc.StatusCode.INTERNAL, "broken")
        yield None

    def wrong(self, kind, part, message):
        yield answer("response_body")

    def twice(self, kind, part, message):
        yield answer(kind)
        yield answer(kind)

    def empty(self, kind, part, message):
        yield pb.ProcessingResponse()

    def garbage(self, kind, part, message):
        yield b"\xff\xff\xff\xff"

    def big(self, kind, part, message):
        if kind.endswith("body"):
            yield body_answer(kind, b"x" * (2 << 20))
        else:
            yield answer(kind)

    def early_end(self, kind, part, message):
        yield streamed(kind, b"early", True) if kind.endswith("body") else answer(kind)

    def odd_mode(self, kind, part, message):
        response = answer(kind)
        response.mode_override.request_body_mode = 77
        yield response

    def flood(self, kind, part, message):
        """Sends pieces without an end as soon as there is a body."""
        if not kind.endswith("body"):
            yield answer(kind)
        while kind.endswith("body"):
            yield streamed(kind, b"y" * 60000, False)


def process(messages, context):
    talk = Talk(context)
    for message in messages:
        for response in talk.answers(message):
            if response is None:
                return
            yield response


handler = grpc.stream_stream_rpc_method_handler(
    process,
    request_deserializer=pb.ProcessingRequest.FromString,
    response_serializer=lambda of: of if isinstance(of, bytes) else of.SerializeToString(),
)
server = grpc.server(futures.ThreadPoolExecutor(64))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
    "envoy.service.ext_proc.v3.ExternalProcessor", {"Process": handler}),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
