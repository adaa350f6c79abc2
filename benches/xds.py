"""What many resources of a control plane cost: CPU and memory of the first load, and how soon one changed endpoint is live.

  python3 benches/xds.py SLUICE [CLUSTERS [ENVOY]]

SLUICE is the binary, CLUSTERS their number (10000), each with 10 endpoints and a route; ENVOY is another binary, which gets the
same. The plane is that of the tests (tests/peers/xds_server.py, which needs grpcio and xds-protos); it speaks the
incremental form over ADS. With h2load, the latency of requests to one cluster is compared while endpoints of another one
change, and while nothing changes.
"""
import http.client
import json
import os
import shutil
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
CHANGES = 50
# Of the comparison under load.
ROUNDS = 5
SECONDS = 6
PAUSE = 0.2


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


def cpu(pid):
    """Seconds of processor time of a process, with its threads that have ended."""
    return time.clock_gettime((~pid << 3) | 2)


def memory(pid):
    """MiB of a process: its proportional set size, and the most that it had resident."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        now = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024
    with open(f"/proc/{pid}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    return now, peak


def until(what, found):
    begun = time.monotonic()
    while time.monotonic() - begun < 300:
        try:
            value = found()
        except (OSError, ValueError, http.client.HTTPException):
            value = None
        if value:
            return value
        time.sleep(0.02)
    sys.exit(f"waited in vain for {what}")


def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def get(address, path):
    client = http.client.HTTPConnection(*address.split(":"), timeout=30)
    client.request("GET", path)
    answer = client.getresponse()
    return answer.status, answer.read().decode()


class Sluice:
    def __init__(self, binary, folder):
        self.report = f"{folder}/report"
        self.args = [binary, "envoy", "--report", self.report, "--"]

    def ready(self):
        return any(line.get("ready") for line in lines(self.report))

    def address(self):
        return next(line["address"] for line in reversed(lines(self.report)) if line.get("listener") == "web")


class Envoy:
    def __init__(self, binary, folder):
        self.admin = f"{folder}/admin"
        self.args = [binary, "--disable-hot-restart", "-l", "warn", "--admin-address-path", self.admin]

    def get(self, path):
        with open(self.admin) as file:
            return get(file.read(), path)

    def ready(self):
        return self.get("/ready")[0] == 200

    def address(self):
        listeners = json.loads(self.get("/listeners?format=json")[1])["listener_statuses"]
        of = next(of for of in listeners if of["name"] == "web")["local_address"]["socket_address"]
        return f"{of['address']}:{of['port_value']}"


class Plane:
    def __init__(self):
        self.child = subprocess.Popen([sys.executable, f"{ROOT}/tests/peers/xds_server.py", "0"],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.child.stdout.readline())
        self.sent = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.child.stdout:
            if '"sent"' in line:
                self.sent.append(json.loads(line)["at"])

    def say(self, **what):
        self.child.stdin.write(json.dumps(what) + "\n")
        self.child.stdin.flush()


def origins(binary, folder):
    """Two services that say which one they are: listeners of another process."""
    listeners = [{"name": name, "address": "127.0.0.1:0", "http": name} for name in "ab"]
    routes = {name: [{"hosts": "*", "rules": [{"respond": {"status": 200, "body": name}}]}] for name in "ab"}
    with open(f"{folder}/origins.yaml", "w") as file:
        json.dump({"listeners": listeners, "routes": routes}, file)
    child = subprocess.Popen([binary, "run", "--report", f"{folder}/origins", f"{folder}/origins.yaml"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until("the services", lambda: any(line.get("ready") for line in lines(f"{folder}/origins")))
    found = {line["listener"]: line["address"] for line in lines(f"{folder}/origins") if "listener" in line}
    return child, {name: int(found[name].split(":")[1]) for name in "ab"}


def changes(pid, address, plane, ports):
    """CPU of a changed endpoint, and the time from its message to the first request that goes there."""
    client = http.client.HTTPConnection(*address.split(":"))

    def seen():
        client.request("GET", "/c0/")
        return client.getresponse().read().decode()

    assert seen() == "a"
    waits, began, requests = [], cpu(pid), 0
    for change in range(CHANGES):
        to = "ba"[change % 2]
        plane.sent.clear()
        plane.say(put="eds", resources={"c0": assignment("c0", [("127.0.0.1", ports[to])])})
        requests += 1
        while seen() != to:
            requests += 1
        live = time.monotonic()
        until("the plane to say when", lambda: plane.sent)
        waits.append((live - plane.sent[0]) * 1000)
    spent = cpu(pid) - began
    # What the requests themselves took.
    began = cpu(pid)
    for _ in range(requests):
        seen()
    own = max(0.0, spent - (cpu(pid) - began)) / CHANGES
    waits.sort()
    print(f"  one endpoint changed: {own * 1000:.1f} ms of CPU; live {waits[CHANGES // 2]:.1f} ms after its message "
          f"(median; 90 %: {waits[CHANGES * 9 // 10]:.1f} ms)")


def late(address, folder):
    """The 99th percentile of the latency of requests, in microseconds."""
    log = f"{folder}/latencies"
    if os.path.exists(log):
        os.remove(log)
    done = subprocess.run(["h2load", "--h1", "-c", "4", "-t", "1", "-D", str(SECONDS), "--rps", "250", f"--log-file={log}",
                           f"http://{address}/c0/"], capture_output=True, text=True, check=True)
    assert " 0 failed" in done.stdout, done.stdout
    with open(log) as file:
        found = sorted(int(line.split()[2]) for line in file if line.split()[1] == "200")
    return found[len(found) * 99 // 100]


def under_load(address, plane, folder):
    if not shutil.which("h2load"):
        return print("  h2load is not installed: nothing is said about latencies")
    pairs = []
    for _ in range(ROUNDS):
        still = late(address, folder)
        over = threading.Event()

        def change():
            number = 0
            while not over.wait(PAUSE):
                number += 1
                plane.say(put="eds", resources={"c1": assignment("c1", [("127.0.0.1", 1 + number % 2)])})
        thread = threading.Thread(target=change)
        thread.start()
        moved = late(address, folder)
        over.set()
        thread.join()
        pairs.append((moved / still, still, moved))
    ratio, still, moved = sorted(pairs)[ROUNDS // 2]
    print(f"  p99 of requests while an endpoint of another cluster changes every {PAUSE * 1000:.0f} ms: "
          f"{ratio:.2f} of that while nothing does ({moved} and {still} us; median of {ROUNDS} pairs)")


def measure(kind, binary, count, ports, folder):
    os.mkdir(folder)
    plane = Plane()
    names = [f"c{number}" for number in range(count)]
    spare = [(f"127.{number}.0.1", 1) for number in range(1, ENDPOINTS)]
    routes = [{"match": {"prefix": f"/{name}/"}, "route": {"cluster": name}} for name in names]
    table = {"name": "main", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}
    own = [("127.0.0.1", ports["a"])]
    plane.say(set="rds", version="1", resources={"main": table})
    plane.say(set="lds", version="1", resources={"web": listener()})
    plane.say(set="eds", version="1",
              resources={name: assignment(name, own if name == "c0" else own + spare) for name in names})
    plane.say(set="cds", version="1", resources={name: cluster(name) for name in names})
    plane.say(times=True)
    until("the plane", lambda: plane.sent)
    with open(f"{folder}/envoy.yaml", "w") as file:
        json.dump(bootstrap(plane.port), file)
    proxy = kind(binary, folder)
    flags = ["--concurrency", "2", "--service-node", "bench", "--service-cluster", "bench", "-c", f"{folder}/envoy.yaml"]
    with open(f"{folder}/log", "w") as log:
        begun = time.monotonic()
        child = subprocess.Popen(proxy.args + flags, stderr=log, stdout=subprocess.DEVNULL)
    try:
        until("the proxy to be ready", lambda: proxy.ready())
        took, spent = time.monotonic() - begun, cpu(child.pid)
        now, peak = memory(child.pid)
        print(f"{kind.__name__}, {count} clusters: ready after {took:.1f} s, {spent:.2f} s of CPU, "
              f"{now:.0f} MiB, at most {peak:.0f} MiB", flush=True)
        address = until("the address", lambda: proxy.address())
        changes(child.pid, address, plane, ports)
        under_load(address, plane, folder)
        now, peak = memory(child.pid)
        print(f"  after all of that: {now:.0f} MiB, at most {peak:.0f} MiB", flush=True)
    finally:
        child.kill()
        plane.child.kill()


def main():
    binary, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    folder = tempfile.mkdtemp()
    services, ports = origins(binary, folder)
    try:
        measure(Sluice, binary, count, ports, f"{folder}/sluice")
        if len(sys.argv) > 3:
            measure(Envoy, sys.argv[3], count, ports, f"{folder}/envoy")
    finally:
        services.kill()
        shutil.rmtree(folder)


main()
