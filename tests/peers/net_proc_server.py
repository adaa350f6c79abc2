"""A service for external processing of connections (envoy.service.network_ext_proc.v3), made of Envoy's own messages.

What it does with a piece is named by the first word of it: see `answer`. Prints its port.
"""
import sys
from concurrent import futures

import grpc
from envoy.service.network_ext_proc.v3 import network_external_processor_pb2 as pb

SERVICE = "envoy.service.network_ext_proc.v3.NetworkExternalProcessor"


def answer(request, context):
    """The answer to a piece; `None` for none."""
    side = "read_data" if request.HasField("read_data") else "write_data"
    piece = getattr(request, side)
    response = pb.ProcessingResponse()
    own = getattr(response, side)
    own.end_of_stream = piece.end_of_stream
    word = piece.data.split(b" ")[0].strip().decode(errors="replace")
    if word in ("change", "told"):
        response.data_processing_status = pb.ProcessingResponse.MODIFIED
        told = f"[{side} {len(piece.data)} {int(piece.end_of_stream)}]".encode()
        own.data = piece.data.upper() if word == "change" else told
    elif word == "who":
        response.data_processing_status = pb.ProcessingResponse.MODIFIED
        own.data = dict(context.invocation_metadata()).get("x-who", "nobody").encode()
    elif word == "nothing":
        response.data_processing_status = pb.ProcessingResponse.MODIFIED
    elif word == "same":
        response.data_processing_status = pb.ProcessingResponse.UNMODIFIED
        own.data = b"not this"
    elif word in ("close", "reset"):
        response.connection_status = getattr(pb.ProcessingResponse, {"close": "CLOSE", "reset": "CLOSE_RST"}[word])
        own.data = piece.data
    elif word == "other":
        response.ClearField(side)
        other = response.write_data if side == "read_data" else response.read_data
        other.data = b"x"
    elif word == "neither":
        return pb.ProcessingResponse()
    elif word == "late":
        return None
    elif word == "fail":
        context.abort(grpc.StatusCode.INTERNAL, "as asked")
    elif word == "end":
        raise StopIteration
    else:
        own.data = piece.data
    return response


def process(requests, context):
    for request in requests:
        try:
            response = answer(request, context)
        except StopIteration:
            return
        if response is not None:
            yield response


server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {
    "Process": grpc.stream_stream_rpc_method_handler(
        process, pb.ProcessingRequest.FromString, pb.ProcessingResponse.SerializeToString)}),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
