"""A service for rate limits (envoy.service.ratelimit.v3), made of Envoy's own messages.

It counts by domain and descriptor and never forgets: the limit of a descriptor is the number in the value of its entry
`limit`, or in its `limit`. What else it does is named by the value of an entry `act`: `fail`, `stall`, `unknown` (a code that
is none), `header/NAME` (an answer that adds this header to the request), `shout` (headers for both sides, metadata, a body).
Requests that pass tell the endpoint in `x-asked` what the service was told, as JSON. Prints its port.
"""
import collections
import json
import sys
import threading
from concurrent import futures

import grpc
from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc
from google.protobuf import json_format

counts = collections.Counter()
lock = threading.Lock()


class RateLimit(rls_pb2_grpc.RateLimitServiceServicer):
    def ShouldRateLimit(self, request, context):
        response = rls_pb2.RateLimitResponse(overall_code=1)
        told = json.dumps(json_format.MessageToDict(request, preserving_proto_field_name=True))
        response.request_headers_to_add.add(key="x-asked", value=told)
        for descriptor in request.descriptors:
            entries = {entry.key: entry.value for entry in descriptor.entries}
            status = response.statuses.add(code=1)
            limit = int(entries.get("limit", 0)) or descriptor.limit.requests_per_unit
            if limit:
                key = (request.domain, tuple(sorted(entries.items())))
                with lock:
                    counts[key] += descriptor.hits_addend.value or 1
                    used = counts[key]
                status.current_limit.name = entries.get("name", "")
                status.current_limit.requests_per_unit = limit
                status.current_limit.unit = 3
                status.limit_remaining = max(limit - used, 0)
                status.duration_until_reset.seconds = 1234
                if used > limit:
                    status.code = response.overall_code = 2
            act = entries.get("act", "")
            if act == "fail":
                context.abort(grpc.StatusCode.INTERNAL, "broken")
            elif act == "stall":
                done = threading.Event()
                context.add_callback(done.set)
                done.wait(30)
            elif act == "unknown":
                response.overall_code = 0
            elif act.startswith("header/"):
                response.request_headers_to_add.add(key=act[7:], value="x")
            elif act == "shout":
                response.response_headers_to_add.add(key="x-shout", value="hear")
                response.response_headers_to_add.add(key="content-type", value="application/json")
                response.raw_body = b"{\"slow\":\"down\"}"
                response.dynamic_metadata.update({"tier": "gold"})
        return response


server = grpc.server(futures.ThreadPoolExecutor(32))
rls_pb2_grpc.add_RateLimitServiceServicer_to_server(RateLimit(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
