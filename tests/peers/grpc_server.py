"""A gRPC server without generated code: messages are bytes.

/t.Echo/Unary answers with what it got; /t.Echo/Fail with status 5 and trailers; /t.Echo/Count streams as
many messages as the number it got; /t.Echo/Chat echoes a stream; /t.Echo/Sleep waits for the deadline.
The health service answers SERVING. Prints its port.
"""
import sys
import threading
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-trail", "behind"),))
    return request


def fail(request, context):
    context.set_trailing_metadata((("x-trail", "failed"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "nothing here")


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def chat(requests, context):
    for request in requests:
        yield request


def sleep(request, context):
    done = threading.Event()
    context.add_callback(done.set)
    done.wait(30)
    return b""


def health(request, context):
    return b"\x08\x01"


same = {"request_deserializer": bytes, "response_serializer": bytes}
echo = grpc.method_handlers_generic_handler("t.Echo", {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, **same),
    "Fail": grpc.unary_unary_rpc_method_handler(fail, **same),
    "Count": grpc.unary_stream_rpc_method_handler(count, **same),
    "Chat": grpc.stream_stream_rpc_method_handler(chat, **same),
    "Sleep": grpc.unary_unary_rpc_method_handler(sleep, **same),
})
check = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {
    "Check": grpc.unary_unary_rpc_method_handler(health, **same),
})
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((echo, check))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
