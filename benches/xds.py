"""What many resources of a control plane cost: CPU and memory of the first load, and CPU of one changed endpoint.

  python3 benches/xds.py SLUICE [CLUSTERS]

SLUICE is the binary, CLUSTERS their number (10000), each with 10 endpoints and a route. The plane is that of the tests
(tests/peers/xds_server.py, which needs grpcio and xds-protos); it speaks the incremental form over ADS.
"""
import http.client
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ADS = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
HTTP2 = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
ENDPOINTS = 10
CHANGES = 20


def socket(port, host="127.0.0.1"):
    return {"address": {"socket_address": {"address": host, "port_value": port}}}


def cluster(name):
    return {"name": name, "type": "EDS", "connect_timeout": "5s", "eds_cluster_config": {"eds_config": ADS}}


def assignment(name, addresses):
    endpoints = [{"endpoint": socket(port, host)} for host, port in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def listener():
    manager = {"@type": MANAGER, "stat_prefix": "web", "rds": {"route_config_name": "main", "config_source": ADS},
               "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}]}
    return {"name": "web", **socket(0), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}


def bootstrap(port):
    options = {"@type": HTTP2, "explicit_http_config": {"http2_protocol_options": {}}}
    plane = {"name": "plane", "type": "STATIC", "connect_timeout": "5s",
             "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
             "load_assignment": assignment("plane", [("127.0.0.1", port)])}
    service = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": True,
               "grpc_services": [{"envoy_grpc": {"cluster_name": "plane"}}]}
    return {"admin": socket(0), "dynamic_resources": {"ads_config": service, "cds_config": ADS, "lds_config": ADS},
            "static_resources": {"clusters": [plane]}}


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.send_header("x-port", str(self.server.server_address[1]))
        self.end_headers()

    def log_message(self, *_):
        pass


def origin():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def cpu(pid):
    """Seconds of processor time of a process."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
            total += int(stat.read().split()[0])
    return total / 1e9


def memory(pid):
    """MiB of a process: its proportional set size."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024


def report(path, fits):
    while True:
        if os.path.exists(path):
            with open(path) as lines:
                found = [json.loads(line) for line in lines if line.endswith("\n")]
            found = [line for line in found if fits(line)]
            if found:
                return found[-1]
        time.sleep(0.02)


def main():
    binary, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    names = [f"c{number}" for number in range(count)]
    ports = [origin(), origin()]
    spare = [(f"127.{number}.0.1", 1) for number in range(1, ENDPOINTS)]
    plane = subprocess.Popen([sys.executable, f"{ROOT}/tests/peers/xds_server.py", "0"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    port = int(plane.stdout.readline())
    threading.Thread(target=plane.stdout.read, daemon=True).start()

    def say(**what):
        plane.stdin.write(json.dumps(what) + "\n")
        plane.stdin.flush()

    routes = [{"match": {"prefix": f"/{name}/"}, "route": {"cluster": name}} for name in names]
    table = {"name": "main", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}
    say(set="rds", version="1", resources={"main": table})
    say(set="lds", version="1", resources={"web": listener()})
    own = [("127.0.0.1", ports[0])]
    say(set="eds", version="1", resources={name: assignment(name, own if name == "c0" else own + spare) for name in names})
    say(set="cds", version="1", resources={name: cluster(name) for name in names})
    folder = tempfile.mkdtemp()
    with open(f"{folder}/envoy.yaml", "w") as file:
        json.dump(bootstrap(port), file)
    with open(f"{folder}/log", "w") as log:
        begun = time.monotonic()
        sluice = subprocess.Popen([binary, "envoy", "--report", f"{folder}/report", "--", "--concurrency", "2",
                                   "--service-node", "bench", "--service-cluster", "bench", "-c", f"{folder}/envoy.yaml"],
                                  stderr=log, stdout=subprocess.DEVNULL)
    try:
        report(f"{folder}/report", lambda line: line.get("ready"))
        print(f"{count} clusters: ready after {time.monotonic() - begun:.1f} s, "
              f"{cpu(sluice.pid):.2f} s of CPU, {memory(sluice.pid):.0f} MiB")
        address = report(f"{folder}/report", lambda line: line.get("listener") == "web")["address"]
        client = http.client.HTTPConnection(*address.split(":"))

        def seen():
            client.request("GET", "/c0/")
            answer = client.getresponse()
            answer.read()
            return int(answer.headers["x-port"])

        assert seen() == ports[0]
        before, waits = cpu(sluice.pid), []
        for change in range(CHANGES):
            to = ports[(change + 1) % 2]
            begun = time.monotonic()
            say(put="eds", resources={"c0": assignment("c0", [("127.0.0.1", to)])})
            while seen() != to:
                time.sleep(0.001)
            waits.append(time.monotonic() - begun)
        spent = (cpu(sluice.pid) - before) / CHANGES
        print(f"one endpoint changed: {spent * 1000:.1f} ms of CPU with the requests that wait for it, "
              f"in force after {sorted(waits)[CHANGES // 2] * 1000:.0f} ms (median, with the plane's own time)")
    finally:
        sluice.kill()
        plane.kill()


main()
