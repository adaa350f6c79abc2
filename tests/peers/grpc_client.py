"""Calls the server of grpc_server.py at ADDRESS, over TLS where a CA is given: ADDRESS [CA NAME]."""
import sys

import grpc

address = sys.argv[1]
if len(sys.argv) > 2:
    with open(sys.argv[2], "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options = (("grpc.ssl_target_name_override", sys.argv[3]),)
    channel = grpc.secure_channel(address, credentials, options)
else:
    channel = grpc.insecure_channel(address)

same = {"request_serializer": bytes, "response_deserializer": bytes}
call = channel.unary_unary("/t.Echo/Unary", **same)
for size in (0, 1, 100_000):
    answer, rpc = call.with_call(b"x" * size, timeout=30)
    assert len(answer) == size, len(answer)
    assert ("x-trail", "behind") in [tuple(pair) for pair in rpc.trailing_metadata()]

try:
    channel.unary_unary("/t.Echo/Fail", **same)(b"", timeout=30)
    raise AssertionError("it should fail")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    assert error.details() == "nothing here"
    assert ("x-trail", "failed") in [tuple(pair) for pair in error.trailing_metadata()]

counted = list(channel.unary_stream("/t.Echo/Count", **same)(b"500", timeout=30))
assert counted == [str(number).encode() for number in range(500)]

chat = channel.stream_stream("/t.Echo/Chat", **same)
said = [str(number).encode() * 100 for number in range(200)]
assert list(chat(iter(said), timeout=30)) == said

try:
    channel.unary_unary("/t.Echo/Sleep", **same)(b"", timeout=0.5)
    raise AssertionError("it should be too late")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error

try:
    channel.unary_unary("/no.Route/X", **same)(b"", timeout=30)
    raise AssertionError("there is no such route")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
print("all well")
