"""What a program of the user's adds to a request beside Envoy: scripts in Lua, guests in WebAssembly, loaded libraries.

  python3 benches/programs.py SLUICE ENVOY [--rounds 20] [--requests 3000] [--only lua-header,wasm] [--count] [--times 8]

As `guards.py`, which it takes the load, the endpoint and the accounts from. The costs of `lua-body` are those beside a request with the
same body and no script. A loaded library is measured in Sluice only: one for Envoy is built for another interface.
"""
import argparse
import http.client
import json
import os
import re
import statistics
import sys
import tempfile

import guards

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULE = "-- the loaded library"
BODY = 10 * 1024
# What a probe gets instead of the response, so that one can see that the program ran.
PROBE = 'if handle:headers():get("x-probe") then handle:respond({[":status"] = "418"}, "probed") end'
SCRIPTS = {
    "lua-header": 'function envoy_on_response(handle) handle:headers():replace("x-program", "ran") end',
    "lua-body": f'function envoy_on_request(handle) if handle:body():length() == {BODY} then {PROBE} end end',
    "lua-call": 'function envoy_on_request(handle) local headers = handle:httpCall("side", {[":method"] = "GET", [":path"] = "/", '
                f'[":authority"] = "side"}}, "", 5000) if headers[":status"] == "200" then {PROBE} end end',
}
NAMES = ["bare", "bare-body", *SCRIPTS, "wasm", "module"]
# The header of responses that shows that the program ran.
SHOWN = {"lua-header": "x-program", "wasm": "x-served-by", "module": "x-tag"}


def base_of(name):
    return "bare-body" if name.endswith("body") else "bare"


def guest():
    """The guest of the sample: it adds a header to responses."""
    with open(f"{ROOT}/config/wasm.yaml") as sample:
        text = re.search(r"inline: >-\n((?: {14}\S+\n)+)", sample.read())[1]
    return "".join(text.split())


def filter_of(name):
    if name.startswith("bare"):
        return None
    if name == "wasm":
        runtime = {"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"inline_bytes": guest()}}}
        return ("wasm", "Wasm", {"config": {"name": "served-by", "vm_config": runtime}})
    return ("lua", "Lua", {"default_source_code": {"inline_string": SCRIPTS.get(name, MODULE)}})


def library(folder):
    """The sample that tags requests and responses, in C."""
    made = f"{folder}/libtag.so"
    source = f"{ROOT}/crates/sluice-abi"
    guards.run("cc", "-shared", "-fPIC", "-O2", f"-I{source}/include", "-o", made, f"{source}/examples/tag.c")
    return made


def native(sluice, folder, settings):
    """The bootstrap in Sluice's own form, with the library in place of the script that stands for it."""
    with open(f"{folder}/shared.json", "w") as file:
        json.dump(settings, file)
    text = guards.run(sluice, "envoy", "translate", f"{folder}/shared.json").decode()
    one = rf'^( +)- lua(/?[^:]*):\n\1 +source: "?{MODULE}.*\n(?:\1 .*\n)*'
    made = library(folder)
    text = re.sub(one, lambda of: f"{of[1]}- module{of[2]}:\n{of[1]}    library: {made}\n{of[1]}    config: gold\n", text, flags=re.M)
    # In a folder of its own: Sluice watches it, and logs are written to the other.
    path = tempfile.mkdtemp(dir=folder) + "/sluice.yaml"
    with open(path, "w") as file:
        file.write(text)
    return path


class Proxy(guards.Proxy):
    """With requests that have a body where the program reads one."""

    def load(self, case, token, requests):
        args = ["taskset", "-c", "1", "h2load", "--h1", f"-n{requests}", f"-c{guards.CONNECTIONS}", "-t1", "-Hx-user: ann"]
        if base_of(case) == "bare-body":
            args.append(f"-d{self.folder}/body")
        said = guards.run(*args, f"http://127.0.0.1:{self.ports[case]}/").decode()
        done = re.search(r"status codes: (\d+) 2xx", said)
        if not done or int(done[1]) != requests:
            sys.exit(f"{self.name}, {case}: {said}")

    def runs(self, case):
        """Whether the program does what it is there for."""
        client = http.client.HTTPConnection("127.0.0.1", self.ports[case])
        body = "x" * BODY if base_of(case) == "bare-body" else None
        client.request("POST" if body else "GET", "/", body=body, headers={"x-user": "ann", "x-probe": "1"})
        answer = client.getresponse()
        answer.read()
        return answer.headers[SHOWN[case]] is not None if case in SHOWN else answer.status == 418


def table(found, names, unit, times):
    def added(proxy, name):
        return [(cost - bare) / times for cost, bare in zip(found[proxy][name], found[proxy][base_of(name)])]
    digits = 0 if unit == "instructions" else 2
    for proxy in found:
        for name in filter(lambda name: name.startswith("bare"), found[proxy]):
            print(f"{proxy}, {name}: {statistics.median(found[proxy][name]):.{digits}f} {unit}")
    print(f"\n| added {unit} | Sluice | quartiles | Envoy | quartiles | ratio | ratio of whole requests |\n|---|---:|---:|---:|---:|---:|---:|")
    for name in (name for name in names if not name.startswith("bare")):
        row, medians = f"| {name} |", []
        for proxy in found:
            if name not in found[proxy]:
                row += " - | - |"
                continue
            low, median, high = guards.quartiles(added(proxy, name))
            row += f" {median:.{digits}f} | {low:.{digits}f} to {high:.{digits}f} |"
            medians.append(median)
        both = len(medians) == 2 and medians[1] > 0
        row += f" {medians[0] / medians[1]:.2f} |" if both else " - |"
        # With several uses in a chain, a request is not what a user's is.
        whole = [statistics.median(found[proxy][name]) for proxy in found if name in found[proxy] and times == 1]
        print(row, f"{whole[0] / whole[1]:.2f} |" if len(whole) == 2 else "- |", flush=True)


def rounds(proxies, names, args):
    """The costs of every proxy and case, one of each round; callgrind needs one."""
    found = {proxy.name: {name: [] for name in names if name in proxy.ports} for proxy in proxies}
    for number in range(1 if args.count else args.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            for proxy in proxies if number % 4 < 2 else proxies[::-1]:
                if name in proxy.ports:
                    cost = proxy.instructions if args.count else proxy.microseconds
                    found[proxy.name][name].append(cost(name, None, args.requests))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sluice")
    parser.add_argument("envoy")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--only", default="")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--times", type=int, default=1, help="uses of each program in a chain; what one costs is told")
    args = parser.parse_args()
    sluice, envoy = os.path.abspath(args.sluice), os.path.abspath(args.envoy)
    only = args.only.split(",") if args.only else NAMES
    names = [name for name in NAMES if name in only or name in map(base_of, only)]
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/body", "w") as file:
            file.write("x" * BODY)
        its_names = [name for name in names if name != "module"]
        found = guards.free_ports(len(names) + len(its_names) + 2)
        services_at = {"endpoint": found.pop(), "auth": found.pop()}
        ports = {"sluice": {name: found.pop() for name in names}, "envoy": {name: found.pop() for name in its_names}}

        def settings(proxy):
            listeners = [guards.listener(name, port, filter_of(name), args.times) for name, port in ports[proxy].items()]
            made = guards.bootstrap(listeners, services_at)
            made["static_resources"]["clusters"].append(guards.cluster("side", services_at["endpoint"]))
            return made

        with open(f"{folder}/envoy.json", "w") as file:
            json.dump(settings("envoy"), file)
        processes = [guards.services(folder, services_at)]
        try:
            own = [sluice, "run", "--workers", "1", "-c", native(sluice, folder, settings("sluice"))]
            its = [envoy, "-c", f"{folder}/envoy.json", "--concurrency", "1", "--disable-hot-restart", "-l", "critical"]
            proxies = []
            for name, command in (("sluice", own), ("envoy", its)):
                proxies.append(Proxy(name, folder, command, ports[name], args.count))
                processes.append(proxies[-1].process)
            for proxy in proxies:
                for name in proxy.ports:
                    if not name.startswith("bare") and not proxy.runs(name):
                        sys.exit(f"{proxy.name} does not run {name}")
                    proxy.load(name, None, 200 if args.count else 2000)
            table(rounds(proxies, names, args), names, "instructions" if args.count else "microseconds", args.times)
        finally:
            for process in processes:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
