"""A control plane for tests (envoy.service.discovery.v3 and the services of each type), by the rules of go-control-plane.

It speaks both forms. What it serves is told on its standard input, one JSON object a line:
  {"set": TYPE, "version": V, "resources": {NAME: RESOURCE, ...}}   all resources of a type (cds, eds, lds, srds, rds, vhds, sds, ecds,
                                                                     rtds)
  {"put": TYPE, "resources": {NAME: RESOURCE, ...}}                 some resources of a type, beside the others
  {"say": TYPE, "nonce": N, "type_url": U, "resources": [...]}       a response with these resources, on every stream: each
                                                                     {"name": N, "type_url": U, "resource": {...} or {"hex": BYTES}};
                                                                     with "removed": [NAME, ...] in the incremental form
  {"aliases": {NAME: [ALIAS, ...]}}                                  other names that virtual hosts may be asked for by
  {"shy": true}                                                      sends virtual hosts only to those who ask for them by name, and
                                                                     says of which it has none
  {"slow": SECONDS}                                                  waits before each response
  {"cut": true}                                                      ends every stream
  {"max_age": SECONDS}                                               ends every stream that is older
  {"rest": true}                                                     serves what it has over HTTP, too, at the port {"rest": PORT}
  {"absent": true}                                                   says at once which clusters there are not that single ones are asked for
  {"lrs": RESPONSE}                                                  what load reports are about (LoadStatsResponse), on every stream
                                                                     and at the beginning of later ones
  {"hds": SPECIFIER}                                                 the same of health checks (HealthCheckSpecifier)
  {"echo": NUMBER}                                                   says {"echo": NUMBER}: what came before has been done
  {"times": true}                                                    says when each response is sent, as {"sent": ..., "at": ...}
What it is told is printed as JSON lines: {"request": ...}, {"opened": ...}, {"closed": ...}, and of other services {"lrs": MESSAGE} and
{"hds": MESSAGE}. Its port is the first line.
The arguments are its port and the path of a unix socket that it listens on, too.

State of the world: EDS and RDS are answered only if the request names all there are (the superset rule), a request with
a stale nonce is ignored, and types are sent in order: clusters, endpoints, listeners, routes.
"""
import http.server
import json
import queue
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import json_format

# Every type that a resource may contain must be known before it is made of JSON.
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2, scoped_route_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2  # noqa: F401
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2  # noqa: F401
from envoy.extensions.filters.http.on_demand.v3 import on_demand_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2  # noqa: F401
from envoy.service.cluster.v3 import cds_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from envoy.service.endpoint.v3 import eds_pb2_grpc
from envoy.service.extension.v3 import config_discovery_pb2_grpc
from envoy.service.health.v3 import hds_pb2, hds_pb2_grpc
from envoy.service.listener.v3 import lds_pb2_grpc
from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc
from envoy.service.route.v3 import rds_pb2_grpc
from envoy.service.runtime.v3 import rtds_pb2, rtds_pb2_grpc
from envoy.service.secret.v3 import sds_pb2_grpc

PREFIX = "type.googleapis.com/"
TYPES = {
    "cds": cluster_pb2.Cluster,
    "eds": endpoint_pb2.ClusterLoadAssignment,
    "lds": listener_pb2.Listener,
    "srds": scoped_route_pb2.ScopedRouteConfiguration,
    "rds": route_pb2.RouteConfiguration,
    "vhds": route_components_pb2.VirtualHost,
    "sds": secret_pb2.Secret,
    "ecds": extension_pb2.TypedExtensionConfig,
    "rtds": rtds_pb2.Runtime,
}
URLS = {kind: PREFIX + message.DESCRIPTOR.full_name for kind, message in TYPES.items()}
KINDS = {url: kind for kind, url in URLS.items()}
WILD = {"cds", "lds", "srds", "vhds"}

lock = threading.RLock()
snapshot = {}  # kind -> (version, {name: encoded})
streams = set()
max_age = [None]
times = [False]
absent = [False]
aliases = {}
shy = [False]
slow = [0.0]


def tell(**what):
    with lock:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


class Stream:
    """One stream of either form; `None` in its queue ends it."""

    def __init__(self, delta):
        self.delta, self.out = delta, queue.Queue()
        self.nonce = 0
        self.wanted, self.nonces, self.sent = {}, {}, {}
        # The virtual hosts that it was told there is nothing of.
        self.denied = set()
        # The types of which all there is was asked for, in the incremental form.
        self.wild = set()
        self.began = time.monotonic()
        with lock:
            streams.add(self)

    def next_nonce(self, kind):
        self.nonce += 1
        self.nonces[kind] = str(self.nonce)
        return self.nonces[kind]

    def push(self):
        """Sends whatever is new, in order."""
        for kind in TYPES:
            if kind in self.wanted and kind in snapshot:
                (self.push_delta if self.delta else self.push_all)(kind)

    def push_all(self, kind):
        version, resources = snapshot[kind]
        names = self.wanted[kind]
        if kind not in WILD and not set(resources) <= names:
            return
        key = (version, frozenset(names))
        if self.sent.get(kind) == key:
            return
        self.sent[kind] = key
        response = discovery_pb2.DiscoveryResponse(version_info=version, type_url=URLS[kind])
        response.nonce = self.next_nonce(kind)
        for value in resources.values():
            response.resources.add(type_url=URLS[kind], value=value)
        self.out.put(response)

    def push_delta(self, kind):
        _, resources = snapshot[kind]
        wanted = self.wanted[kind]
        names = set(resources) if kind in self.wild else wanted & set(resources)
        if kind == "vhds":
            by_alias = {name for name in resources if wanted & set(aliases.get(name, []))}
            names = by_alias | (wanted & set(resources) if shy[0] else names)
        known = self.sent.setdefault(kind, {})
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=URLS[kind])
        for name in sorted(names):
            version = str(hash(resources[name]))
            if known.get(name) != version:
                known[name] = version
                added = response.resources.add(name=name, version=version)
                if kind == "vhds":
                    added.aliases.extend(aliases.get(name, []))
                added.resource.type_url, added.resource.value = URLS[kind], resources[name]
        for name in [name for name in known if name not in names]:
            del known[name]
            response.removed_resources.append(name)
        if absent[0] and kind == "cds" and kind not in self.wild:
            response.removed_resources.extend(sorted(self.wanted[kind] - set(resources)))
        if shy[0] and kind == "vhds":
            known_names = set(resources).union(*aliases.values())
            for name in sorted(wanted - known_names - self.denied):
                self.denied.add(name)
                response.resources.add(name=name)
        first = self.nonces.get(kind) is None
        if response.resources or response.removed_resources or first:
            response.nonce = self.next_nonce(kind)
            self.out.put(response)

    def take(self, request):
        kind = KINDS.get(request.type_url)
        if kind is None:
            return
        told = {"type": kind, "nonce": request.response_nonce, "node": request.node.id, "delta": self.delta}
        if request.HasField("error_detail"):
            told["error"] = request.error_detail.message
        if self.delta:
            told["subscribe"] = list(request.resource_names_subscribe)
            told["unsubscribe"] = list(request.resource_names_unsubscribe)
            told["initial"] = sorted(request.initial_resource_versions)
            with lock:
                if kind in WILD and kind not in self.wanted and (not told["subscribe"] or "*" in told["subscribe"]):
                    self.wild.add(kind)
                names = self.wanted.setdefault(kind, set())
                names |= set(told["subscribe"])
                names -= set(told["unsubscribe"])
                known = self.sent.setdefault(kind, {})
                known.update(request.initial_resource_versions)
                if kind == "vhds":
                    self.denied -= set(told["unsubscribe"])
                    names -= {"*"}
                for name in told["unsubscribe"] + told["subscribe"]:
                    known.pop(name, None)
        else:
            told["version"], told["names"] = request.version_info, sorted(request.resource_names)
            told["stale"] = bool(request.response_nonce) and request.response_nonce != self.nonces.get(kind)
            if not told["stale"]:
                with lock:
                    self.wanted[kind] = set(request.resource_names)
        tell(request=told)
        with lock:
            self.push()

    def run(self, requests, context):
        tell(opened="delta" if self.delta else "sotw")

        def read():
            try:
                for request in requests:
                    self.take(request)
            except Exception:
                pass
            self.out.put(None)

        threading.Thread(target=read, daemon=True).start()
        context.add_callback(lambda: self.out.put(None))
        while True:
            left = None
            if max_age[0]:
                left = max(0.0, self.began + max_age[0] - time.monotonic())
            try:
                response = self.out.get(timeout=left)
            except queue.Empty:
                break
            if response is None:
                break
            time.sleep(slow[0])
            if times[0]:
                tell(sent=KINDS.get(response.type_url), at=time.monotonic())
            yield response
        with lock:
            streams.discard(self)
        tell(closed="delta" if self.delta else "sotw")


class Service:
    """A service with one stream for everything: what it was told last is said at the beginning of each stream."""

    def __init__(self, word, response):
        self.word, self.response = word, response
        self.last, self.streams = None, set()

    def say(self, message):
        with lock:
            self.last = json_format.ParseDict(message, self.response())
            for out in self.streams:
                out.put(self.last)

    def cut(self):
        with lock:
            for out in self.streams:
                out.put(None)

    def run(self, requests, context):
        out = queue.Queue()
        with lock:
            self.streams.add(out)
            if self.last is not None:
                out.put(self.last)

        def read():
            try:
                for request in requests:
                    tell(**{self.word: json_format.MessageToDict(request, preserving_proto_field_name=True)})
            except Exception:
                pass
            out.put(None)

        threading.Thread(target=read, daemon=True).start()
        context.add_callback(lambda: out.put(None))
        yield from iter(out.get, None)
        with lock:
            self.streams.discard(out)


lrs = Service("lrs", lrs_pb2.LoadStatsResponse)
hds = Service("hds", hds_pb2.HealthCheckSpecifier)


def sotw(self, requests, context):
    yield from Stream(False).run(requests, context)


def delta(self, requests, context):
    yield from Stream(True).run(requests, context)


def service(base, name):
    return type(name, (base,), {f"Stream{name}": sotw, f"Delta{name}": delta})()


def encoded(kind, resources):
    found = {}
    for name, resource in resources.items():
        if "hex" in resource:
            found[name] = bytes.fromhex(resource["hex"])
        else:
            found[name] = json_format.ParseDict(resource, TYPES[kind]()).SerializeToString()
    return found


def command(line):
    with lock:
        if "set" in line:
            snapshot[line["set"]] = (line["version"], encoded(line["set"], line["resources"]))
            for stream in list(streams):
                stream.push()
        elif "put" in line:
            version, resources = snapshot[line["put"]]
            snapshot[line["put"]] = (version + "+", {**resources, **encoded(line["put"], line["resources"])})
            for stream in list(streams):
                stream.push()
        elif "say" in line:
            for stream in list(streams):
                kinds = {True: discovery_pb2.DeltaDiscoveryResponse, False: discovery_pb2.DiscoveryResponse}
                response = kinds[stream.delta](type_url=line.get("type_url", URLS.get(line["say"], "")))
                response.nonce = line.get("nonce", "")
                for of in line.get("resources", []):
                    kind = KINDS.get(of.get("type_url"), line["say"])
                    value = next(iter(encoded(kind, {"": of["resource"]}).values()))
                    any_of = {"type_url": of.get("type_url", URLS[kind]), "value": value}
                    if stream.delta:
                        added = response.resources.add(name=of["name"], version="lie")
                        added.resource.type_url, added.resource.value = any_of["type_url"], value
                    else:
                        response.resources.add(**any_of)
                if stream.delta:
                    response.removed_resources.extend(line.get("removed", []))
                stream.out.put(response)
        elif "cut" in line:
            for stream in list(streams):
                stream.out.put(None)
            lrs.cut()
            hds.cut()
        elif "aliases" in line:
            aliases.update(line["aliases"])
        elif "shy" in line:
            shy[0] = line["shy"]
        elif "slow" in line:
            slow[0] = line["slow"]
        elif "absent" in line:
            absent[0] = line["absent"]
        elif "echo" in line:
            tell(echo=line["echo"])
        elif "lrs" in line:
            lrs.say(line["lrs"])
        elif "hds" in line:
            hds.say(line["hds"])
        elif "max_age" in line:
            max_age[0] = line["max_age"]
        elif "rest" in line:
            serve_rest()
        elif "times" in line:
            times[0] = line["times"]
            tell(sent=None, at=time.monotonic())


class Rest(http.server.BaseHTTPRequestHandler):
    """State of the world by requests: a version that the client has is answered with 304."""
    protocol_version = "HTTP/1.1"
    kinds = {"clusters": "cds", "endpoints": "eds", "listeners": "lds", "routes": "rds", "secrets": "sds",
             "extension_configs": "ecds", "runtime": "rtds"}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = json_format.Parse(body, discovery_pb2.DiscoveryRequest())
        kind = self.kinds.get(self.path.removeprefix("/v3/discovery:"))
        told = {"type": kind, "rest": True, "version": request.version_info, "names": sorted(request.resource_names),
                "node": request.node.id, "host": self.headers["host"]}
        if request.HasField("error_detail"):
            told["error"] = request.error_detail.message
        tell(request=told)
        with lock:
            version, resources = snapshot.get(kind, (None, {}))
        if version is None:
            return self.end(404, b"")
        if version == request.version_info:
            return self.end(304, b"")
        response = discovery_pb2.DiscoveryResponse(version_info=version, type_url=URLS[kind])
        for value in resources.values():
            response.resources.add(type_url=URLS[kind], value=value)
        self.end(200, json_format.MessageToJson(response).encode())

    def end(self, status, body):
        self.send_response(status)
        if status != 304:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve_rest():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tell(rest=server.server_address[1])


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    aggregated = type("Ads", (ads_pb2_grpc.AggregatedDiscoveryServiceServicer,), {
        "StreamAggregatedResources": sotw, "DeltaAggregatedResources": delta})()
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(aggregated, server)
    cds_pb2_grpc.add_ClusterDiscoveryServiceServicer_to_server(
        service(cds_pb2_grpc.ClusterDiscoveryServiceServicer, "Clusters"), server)
    eds_pb2_grpc.add_EndpointDiscoveryServiceServicer_to_server(
        service(eds_pb2_grpc.EndpointDiscoveryServiceServicer, "Endpoints"), server)
    lds_pb2_grpc.add_ListenerDiscoveryServiceServicer_to_server(
        service(lds_pb2_grpc.ListenerDiscoveryServiceServicer, "Listeners"), server)
    rds_pb2_grpc.add_RouteDiscoveryServiceServicer_to_server(
        service(rds_pb2_grpc.RouteDiscoveryServiceServicer, "Routes"), server)
    # The messages come without these services.
    scopes = {f"{form}ScopedRoutes": grpc.stream_stream_rpc_method_handler(
        lambda requests, context, run=run: run(None, requests, context),
        getattr(discovery_pb2, f"{word}Request").FromString, getattr(discovery_pb2, f"{word}Response").SerializeToString)
        for form, word, run in [("Stream", "Discovery", sotw), ("Delta", "DeltaDiscovery", delta)]}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(
        "envoy.service.route.v3.ScopedRoutesDiscoveryService", scopes)])
    hosts = grpc.stream_stream_rpc_method_handler(
        lambda requests, context: delta(None, requests, context),
        discovery_pb2.DeltaDiscoveryRequest.FromString, discovery_pb2.DeltaDiscoveryResponse.SerializeToString)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(
        "envoy.service.route.v3.VirtualHostDiscoveryService", {"DeltaVirtualHosts": hosts})])
    sds_pb2_grpc.add_SecretDiscoveryServiceServicer_to_server(
        service(sds_pb2_grpc.SecretDiscoveryServiceServicer, "Secrets"), server)
    config_discovery_pb2_grpc.add_ExtensionConfigDiscoveryServiceServicer_to_server(
        service(config_discovery_pb2_grpc.ExtensionConfigDiscoveryServiceServicer, "ExtensionConfigs"), server)
    rtds_pb2_grpc.add_RuntimeDiscoveryServiceServicer_to_server(
        service(rtds_pb2_grpc.RuntimeDiscoveryServiceServicer, "Runtime"), server)
    load_stats = type("Lrs", (lrs_pb2_grpc.LoadReportingServiceServicer,), {
        "StreamLoadStats": lambda self, requests, context: lrs.run(requests, context)})()
    lrs_pb2_grpc.add_LoadReportingServiceServicer_to_server(load_stats, server)
    health = type("Hds", (hds_pb2_grpc.HealthDiscoveryServiceServicer,), {
        "StreamHealthCheck": lambda self, requests, context: hds.run(requests, context)})()
    hds_pb2_grpc.add_HealthDiscoveryServiceServicer_to_server(health, server)
    if len(sys.argv) > 2:
        server.add_insecure_port(f"unix:{sys.argv[2]}")
    wanted = sys.argv[1] if len(sys.argv) > 1 else "0"
    port = server.add_insecure_port(f"127.0.0.1:{wanted}")
    if port == 0:
        sys.exit("the port is taken")
    server.start()
    print(port, flush=True)
    for line in sys.stdin:
        command(json.loads(line))


main()
