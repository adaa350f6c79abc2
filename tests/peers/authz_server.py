"""A service for authorisation (envoy.service.auth.v3), made of Envoy's own messages.

What it answers is named by the path of the request: /allow, /deny, /bare, /header/NAME (an answer that sets this header
of the request), /remove/NAME, /query, /none (an answer without a status), /fail, /stall; else it allows. Requests that pass
tell the endpoint in `x-asked` what the service was told, as JSON. Connections pass if the context says so. Prints its port.
"""
import json
import sys
import threading
import urllib.parse
from concurrent import futures

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from google.protobuf import json_format


def header(name, value, append=None):
    option = {"header": {"key": name, "value": value}}
    if append is not None:
        option["append"] = append
    return option


def allow(asked, headers=(), **more):
    told = json.dumps(json_format.MessageToDict(asked, preserving_proto_field_name=True))
    return answer({
        "status": {"code": 0},
        "ok_response": {"headers": [header("x-asked", told), *headers], **more},
    })


def answer(of):
    return json_format.ParseDict(of, external_auth_pb2.CheckResponse())


class Authorization(external_auth_pb2_grpc.AuthorizationServicer):
    def Check(self, request, context):
        attributes = request.attributes
        if not attributes.HasField("request"):
            code = 0 if attributes.context_extensions.get("pass") == "yes" else 7
            return answer({"status": {"code": code}})
        path = attributes.request.http.path.split("?")[0]
        kind, _, rest = path.lstrip("/").partition("/")
        name = urllib.parse.unquote(rest)
        if kind == "allow":
            response = allow(
                request,
                [header("x-user", "ann"), header("x-team", "b", True)],
                headers_to_remove=["x-secret"],
                response_headers_to_add=[header("set-cookie", "seen=1"), header("x-seen", "yes")],
            )
            response.dynamic_metadata.update({"user": "ann", "level": 3, "groups": ["a", "b"]})
            return response
        if kind == "deny":
            return answer({"status": {"code": 7}, "denied_response": {
                "status": {"code": 401},
                "headers": [header("www-authenticate", "Custom"), header("set-cookie", "a=1"),
                            header("set-cookie", "b=2"), header("content-type", "application/json")],
                "body": "{\"why\":\"no\"}",
            }})
        if kind == "bare":
            return answer({"status": {"code": 16}})
        if kind == "header":
            return allow(request, [header(name, "x")])
        if kind == "remove":
            return allow(request, headers_to_remove=[name])
        if kind == "query":
            return allow(request, query_parameters_to_set=[{"key": "a", "value": "b"}])
        if kind == "none":
            return external_auth_pb2.CheckResponse()
        if kind == "fail":
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        if kind == "stall":
            done = threading.Event()
            context.add_callback(done.set)
            done.wait(30)
        return allow(request, [header("x-tier", "gold")] if kind == "tier" else ())


server = grpc.server(futures.ThreadPoolExecutor(32))
external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Authorization(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
