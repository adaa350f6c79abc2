"""What a filter adds to a request beside Envoy: CPU of the proxy's process, or instructions with `--count`.

  python3 benches/guards.py SLUICE ENVOY [--rounds 20] [--requests 4000] [--only jwt,cors] [--count] [--times 8]

SLUICE and ENVOY are the programs. Both read the same bootstrap, with a listener for each filter and one without any; the limit
per address, of which Sluice has a form of its own, is added to the translated file. One worker each on processor 0,
nginx (the endpoint and the authoriser) and h2load on processor 1. In each round every proxy serves the same number of
requests through every listener in turn; a cost is the difference to the listener without a filter in the same round.
With `--count` the proxies run under callgrind once, and what is counted is instructions in user space. What costs less than
the noise of the machine shows if a chain has it several times (`--times`); the cost is that of one use.
"""
import argparse
import base64
import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TYPE = "type.googleapis.com/envoy.extensions."
HTTP = TYPE + "filters.http."
MANAGER = TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {"name": "envoy.filters.http.router", "typed_config": {"@type": HTTP + "router.v3.Router"}}
BREAKERS = {"thresholds": [{name: 100_000 for name in ("max_connections", "max_pending_requests", "max_requests")}]}
ORIGIN = "https://app.test"
PATH = "/team500/a"
CONNECTIONS = 32


def run(*args, stdin=None):
    return subprocess.run(args, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_token(folder):
    """A token signed with RS256, and the set with its public key."""
    key = f"{folder}/key.pem"
    run("openssl", "genrsa", "-out", key, "2048")
    modulus = bytes.fromhex(run("openssl", "rsa", "-in", key, "-noout", "-modulus").decode().strip().split("=")[1])
    claims = {"iss": "https://issuer.test", "aud": "shop", "sub": "ann", "exp": int(time.time()) + 1_000_000}
    parts = [{"alg": "RS256", "typ": "JWT", "kid": "k"}, claims]
    text = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    signature = run("openssl", "dgst", "-sha256", "-sign", key, stdin=text.encode())
    key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k", "n": base64url(modulus), "e": "AQAB"}
    return f"{text}.{base64url(signature)}", json.dumps({"keys": [key]})


def jwt(keys, cached):
    provider = {"issuer": "https://issuer.test", "audiences": ["shop"], "forward": True, "local_jwks": {"inline_string": keys}}
    if cached:
        provider["jwt_cache_config"] = {"jwt_cache_size": 1000}
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "corp"}}
    return ("jwt_authn", "JwtAuthentication", {"providers": {"corp": provider}, "rules": [rule]})


def policies():
    def policy(number):
        path = {"url_path": {"path": {"prefix": f"/team{number}/"}}}
        method = {"header": {"name": ":method", "string_match": {"exact": "GET"}}}
        return {"permissions": [{"and_rules": {"rules": [path, method]}}], "principals": [{"any": True}]}
    return {"rules": {"action": "ALLOW", "policies": {f"p{number}": policy(number) for number in range(1000)}}}


def cases(keys):
    """The filters by the name of their listener: name, message and settings."""
    service = {"envoy_grpc": {"cluster_name": "auth"}, "timeout": "60s"}
    bucket = {"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s"}
    share = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    per_address = {"entries": [{"key": "remote_address"}], "token_bucket": bucket}
    return {
        "bare": None,
        "jwt": jwt(keys, True),
        "jwt-uncached": jwt(keys, False),
        "rbac": ("rbac", "RBAC", policies()),
        "limit": ("local_ratelimit", "LocalRateLimit",
                  {"stat_prefix": "l", "token_bucket": bucket, "filter_enabled": share, "filter_enforced": share,
                   "descriptors": [per_address]}),
        "ext_authz": ("ext_authz", "ExtAuthz", {"transport_api_version": "V3", "grpc_service": service}),
        "cors": ("cors", "Cors", {}),
    }


def address(port):
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


def cluster(name, port, **more):
    endpoints = [{"lb_endpoints": [{"endpoint": address(port)}]}]
    return {"name": name, "connect_timeout": "5s", "circuit_breakers": BREAKERS,
            "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **more}


def listener(name, port, filter, times=1):
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}]}
    filters = [ROUTER]
    if filter:
        kind, message, settings = filter
        uses = [f"envoy.filters.http.{kind}" + (f".{number}" if number else "") for number in range(times)]
        filters = [{"name": use, "typed_config": {"@type": f"{HTTP}{kind}.v3.{message}", **settings}} for use in uses] + [ROUTER]
    if name == "cors":
        policy = {"@type": HTTP + "cors.v3.CorsPolicy", "allow_origin_string_match": [{"exact": ORIGIN}], "allow_methods": "GET"}
        host["typed_per_filter_config"] = {use: policy for use in uses}
    if name == "limit":
        host["rate_limits"] = [{"actions": [{"remote_address": {}}]}]
    manager = {"@type": MANAGER, "stat_prefix": name, "generate_request_id": False, "http_filters": filters,
               "route_config": {"name": name, "virtual_hosts": [host]}}
    return {"name": name, **address(port), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}


def bootstrap(listeners, ports):
    options = {"@type": TYPE + "upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}
    http2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    clusters = [cluster("up", ports["endpoint"]), cluster("auth", ports["auth"], typed_extension_protocol_options=http2)]
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(folder, name, args, processor):
    log = open(f"{folder}/{name}.log", "w")
    return subprocess.Popen(args, stdout=log, stderr=log, cwd=folder, preexec_fn=lambda: os.sched_setaffinity(0, {processor}))


def services(folder, ports):
    """nginx as the endpoint, and as an authoriser: a `CheckResponse` with an empty status, which allows, over gRPC."""
    with open(f"{folder}/allow", "wb") as file:
        file.write(bytes([0, 0, 0, 0, 2, 0x0a, 0]))
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with open(f"{folder}/nginx.conf", "w") as file:
        file.write(f"""daemon off; worker_processes 1; error_log stderr crit; pid {folder}/nginx.pid; user root;
events {{ worker_connections 4096; }}
http {{
  access_log off; {temporary} keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{ports["endpoint"]}; location / {{ return 200 "{"x" * 1024}"; }} }}
  server {{
    listen 127.0.0.1:{ports["auth"]} http2; root {folder}; default_type application/grpc;
    location / {{ error_page 405 =200 /allow; return 405; }}
    location = /allow {{ error_page 405 =200 /allow; add_trailer grpc-status 0 always; }}
  }}
}}
""")
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    return start(folder, "nginx", [nginx, "-e", "stderr", "-c", f"{folder}/nginx.conf"], 1)


class Proxy:
    """One running proxy, with the port of each listener."""

    def __init__(self, name, folder, args, ports, count):
        self.name, self.ports, self.folder = name, ports, folder
        if count:
            self.counts = tempfile.mkdtemp(dir=folder)
            args = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.counts}/out", *args]
        self.process = start(folder, name, args, 0)
        for port in ports.values():
            self.wait(port)

    def wait(self, port):
        while True:
            if self.process.poll() is not None:
                sys.exit(f"{self.name} has ended: " + open(f"{self.folder}/{self.name}.log").read()[-2000:])
            try:
                return socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.1)

    def cpu(self):
        """Seconds of processor time of the process."""
        total = 0
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            with open(f"/proc/{self.process.pid}/task/{task}/schedstat") as stat:
                total += int(stat.read().split()[0])
        return total / 1e9

    def load(self, case, token, requests):
        args = ["taskset", "-c", "1", "h2load", "--h1", f"-n{requests}", f"-c{CONNECTIONS}", "-t1", f"-Horigin: {ORIGIN}",
                f"-Hauthorization: Bearer {token}", f"http://127.0.0.1:{self.ports[case]}{PATH}"]
        said = run(*args).decode()
        done = re.search(r"status codes: (\d+) 2xx", said)
        if not done or int(done[1]) != requests:
            sys.exit(f"{self.name}, {case}: {said}")

    def microseconds(self, case, token, requests):
        before = self.cpu()
        self.load(case, token, requests)
        return (self.cpu() - before) / requests * 1e6

    def instructions(self, case, token, requests):
        """Of a request: what callgrind counts between two marks."""
        pid = str(self.process.pid)
        run("callgrind_control", "--zero", pid)
        self.load(case, token, requests)
        before = set(os.listdir(self.counts))
        run("callgrind_control", "--dump", pid)
        while True:
            for file in set(os.listdir(self.counts)) - before:
                with open(f"{self.counts}/{file}") as out:
                    totals = [int(line.split()[1]) for line in out if line.startswith("totals:")]
                if totals:
                    return totals[0] / requests
            time.sleep(0.1)

    def guards(self, case, headers):
        """Whether the filter does what it is there for."""
        client = http.client.HTTPConnection("127.0.0.1", self.ports[case])
        client.request("GET", PATH if case != "rbac" else "/other", headers=headers)
        answer = client.getresponse()
        answer.read()
        if case == "cors":
            return answer.headers["access-control-allow-origin"] == ORIGIN
        return answer.status in (401, 403)


def native(sluice, folder, settings, times):
    """The bootstrap in Sluice's own form, with a limit per address, and so many uses of each filter."""
    with open(f"{folder}/shared.json", "w") as file:
        json.dump(settings, file)
    text = run(sluice, "envoy", "translate", f"{folder}/shared.json").decode()
    # In a folder of its own: Sluice watches it, and logs are written to the other.
    path = tempfile.mkdtemp(dir=folder) + "/sluice.yaml"
    # The settings are a map, or a list of them.
    text = re.sub(r"^( +- rate_limit:\n)( +)(- |)", lambda of: f"{of[1]}{of[2]}{of[3]}per: source_ip\n{of[2]}{' ' * len(of[3])}", text, flags=re.M)
    one = r"^( +)- (cors|jwt|rbac|rate_limit|ext_authz):\n((?:\1 .*\n)+)"

    def repeated(use):
        indent, name, settings = use.groups()
        more = (f"{indent}- {name}/{number}:\n{settings}" for number in range(2, times + 1))
        return use.group(0) + "".join(more)

    with open(path, "w") as file:
        file.write(re.sub(one, repeated, text, flags=re.M))
    return path


def quartiles(values):
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def rounds(proxies, names, token, args):
    """The costs of every proxy and case, one of each round; callgrind needs one."""
    found = {proxy.name: {name: [] for name in names} for proxy in proxies}
    for number in range(1 if args.count else args.rounds):
        turn = names if number % 2 == 0 else names[::-1]
        for name in turn:
            for proxy in proxies if number % 4 < 2 else proxies[::-1]:
                cost = proxy.instructions if args.count else proxy.microseconds
                found[proxy.name][name].append(cost(name, token, args.requests))
    return found


def table(found, names, unit, times):
    def added(proxy, name):
        return [(cost - bare) / times for cost, bare in zip(found[proxy][name], found[proxy]["bare"])]
    digits = 0 if unit == "instructions" else 2
    for proxy in found:
        print(f"{proxy}, bare route: {statistics.median(found[proxy]['bare']):.{digits}f} {unit}")
    print(f"\n| added {unit} | Sluice | quartiles | Envoy | quartiles | ratio |\n|---|---:|---:|---:|---:|---:|")
    for name in names[1:]:
        row, medians = f"| {name} |", []
        for proxy in ("sluice", "envoy"):
            low, median, high = quartiles(added(proxy, name))
            row += f" {median:.{digits}f} | {low:.{digits}f} to {high:.{digits}f} |"
            medians.append(median)
        print(row, f"{medians[0] / medians[1]:.2f} |" if medians[1] > 0 else "- |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sluice")
    parser.add_argument("envoy")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--only", default="")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--times", type=int, default=1, help="uses of each filter in a chain; what one costs is told")
    args = parser.parse_args()
    sluice, envoy = os.path.abspath(args.sluice), os.path.abspath(args.envoy)
    with tempfile.TemporaryDirectory() as folder:
        token, keys = signed_token(folder)
        filters = cases(keys)
        names = ["bare"] + [name for name in filters if name in args.only.split(",") or (not args.only and name != "bare")]
        found = free_ports(2 * len(names) + 2)
        services_at = {"endpoint": found.pop(), "auth": found.pop()}
        ports = {proxy: {name: found.pop() for name in names} for proxy in ("sluice", "envoy")}
        settings = bootstrap([listener(name, ports["envoy"][name], filters[name], args.times) for name in names], services_at)
        with open(f"{folder}/envoy.json", "w") as file:
            json.dump(settings, file)
        if "limit" in names:
            del filters["limit"][2]["descriptors"]
        settings = bootstrap([listener(name, ports["sluice"][name], filters[name]) for name in names], services_at)
        processes = [services(folder, services_at)]
        try:
            own = [sluice, "run", "--workers", "1", "-c", native(sluice, folder, settings, args.times)]
            its = [envoy, "-c", f"{folder}/envoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "critical"]
            proxies = []
            for name, command in (("sluice", own), ("envoy", its)):
                proxies.append(Proxy(name, folder, command, ports[name], args.count))
                processes.append(proxies[-1].process)
            for proxy in proxies:
                for name in names:
                    headers = {"origin": ORIGIN, "authorization": f"Bearer {token if name == 'cors' else 'none'}"}
                    if name in ("jwt", "jwt-uncached", "rbac", "cors") and not proxy.guards(name, headers):
                        sys.exit(f"{proxy.name} does not apply {name}")
                    proxy.load(name, token, 200 if args.count else 2000)
            table(rounds(proxies, names, token, args), names, "instructions" if args.count else "microseconds", args.times)
        finally:
            for process in processes:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
