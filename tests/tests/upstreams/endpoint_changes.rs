//! Traffic of every kind while endpoints become unhealthy, fail over and are replaced.
//!
//! Each load runs through each kind of change for two seconds, or for `SLUICE_SOAK_SECONDS`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use sluice_testkit::peers::{Server, UdpServer, connect, exchange, udp_client};
use sluice_testkit::{Running, Sluice, tools, wait};
use sluice_tests::databases::Postgres;
use sluice_tests::{messages, place_endpoints};

/// How long each load runs through each kind of change, in seconds.
fn seconds() -> u64 {
    std::env::var("SLUICE_SOAK_SECONDS").map_or(2, |seconds| seconds.parse().unwrap())
}

/// The time between two changes.
fn period() -> Duration {
    Duration::from_millis(if seconds() < 10 { 250 } else { 1000 })
}

/// What happens to the endpoints while a load runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The first of two is not usable now and then.
    Flap,
    /// The primary is not usable now and then; its backup serves meanwhile.
    Failover,
    /// All endpoints are replaced by others again and again, by a file.
    Replacement,
}

const CHANGES: [Change; 3] = [Change::Flap, Change::Failover, Change::Replacement];

/// The file that lists the endpoints which replace each other.
const FILE: &str = "up.json";

/// How an endpoint is made unusable.
enum Switch {
    /// Its checks fail while this is set.
    Checks(Arc<AtomicBool>),
    /// An operator puts it in maintenance.
    Operator,
}

/// Two endpoints, and how the first is made unusable.
struct Pair {
    addresses: [SocketAddr; 2],
    switch: Switch,
}

/// A Sluice in front of a pair.
struct World {
    sluice: Running,
    change: Change,
    pair: Pair,
}

impl World {
    /// Starts one with these listeners, which lead to the cluster `up` with these settings.
    fn start(change: Change, pair: Pair, listeners: &str, settings: &str) -> Self {
        let kit = Sluice::new()
            .watching()
            .expect_warning("endpoint is unhealthy")
            .expect_warning("warning[slow-check]");
        place_endpoints(&kit.folder().join(FILE), &pair.addresses[..1]);
        let [first, second] = pair.addresses;
        let endpoints = match change {
            Change::Flap => format!("endpoints: [\"{first}\", \"{second}\"]"),
            Change::Failover => {
                format!("endpoints: [\"{first}\", {{ address: \"{second}\", backup: true }}]")
            }
            Change::Replacement => format!("endpoints_file: {FILE}"),
        };
        let sluice =
            kit.start(&format!("admin: {{ address: 127.0.0.1:0, writable: true }}\n{listeners}\nclusters: {{ up: {{ {endpoints}, {settings} }} }}\n"));
        Self { sluice, change, pair }
    }

    /// Changes the endpoints in each period, while `runs` returns true; returns how often.
    fn change_while(&self, mut runs: impl FnMut() -> bool) -> usize {
        let mut changes = 0;
        while wait::within(period(), || (!runs()).then_some(())).is_none() {
            changes += 1;
            self.make_change(changes % 2 == 1);
        }
        changes
    }

    /// Takes the first endpoint away or brings it back, and waits until that is in force.
    fn make_change(&self, away: bool) {
        match (self.change, &self.pair.switch) {
            (Change::Replacement, _) => {
                let current = usize::from(away);
                let file = self.sluice.folder().join(FILE);
                place_endpoints(&file, &self.pair.addresses[current..=current]);
            }
            (_, Switch::Checks(fail)) => fail.store(away, Relaxed),
            (_, Switch::Operator) => self.act(if away { "maintenance" } else { "ready" }),
        }
        self.wait_for(away);
    }

    /// Waits until a change is in force.
    fn wait_for(&self, away: bool) {
        let [first, second] = self.pair.addresses.map(|address| address.to_string());
        wait::until("the change to be in force", || {
            let endpoints = self.sluice.items("/clusters")[0]["endpoints"].clone();
            let endpoints = endpoints.as_array().unwrap();
            let is_there = |address: &str| endpoints.iter().any(|one| one["address"] == address);
            let shown = endpoints.iter().find(|one| one["address"] == *first);
            let serves = shown.is_some_and(|one| {
                one["trouble"]["unhealthy"].is_null() && one["override"].is_null()
            });
            let in_force = match self.change {
                Change::Replacement => is_there(&second) == away && is_there(&first) != away,
                Change::Flap | Change::Failover => serves != away,
            };
            in_force.then_some(())
        });
    }

    fn act(&self, action: &str) {
        let (admin, first) =
            (self.sluice.admin_addr().to_string(), self.pair.addresses[0].to_string());
        let output = messages::sluice(&["endpoint", "-a", &admin, "up", &first, action]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Checks that every connection that was accepted has ended, and for no other reason than its own end.
    fn check_connections(&self) {
        self.sluice.wait_open(0);
        let accepted = self.sluice.metric("sluice_listener_connections_accepted_total", "");
        let done = self.sluice.metric("sluice_connections_ended_total", "reason=\"end.done\"");
        assert!(accepted > 0);
        assert_eq!(done, accepted, "{:?}: {}", self.change, self.sluice.page("/metrics").1);
    }
}

/// Frequent checks of this kind, each of which decides; one that fails says so, or is over after this time.
fn checked(kind: &str, timeout: &str) -> String {
    format!(
        "health: {{ interval: 100ms, unhealthy_interval: 100ms, timeout: {timeout}, unhealthy_after: 1, \
         healthy_after: 1, {kind} }}"
    )
}

/// So long that no check is late that says itself what it found.
const PATIENT: &str = "20s";

/// Runs loads until the endpoints have changed more than once meanwhile: on a slow machine, that may take several.
fn until_changes(mut load: impl FnMut() -> usize) {
    let (mut changes, mut loads) = (0, 0);
    while changes < 2 {
        changes += load();
        loads += 1;
        assert!(loads < 20, "{changes} changes during {loads} loads");
    }
}

/// Runs `load` until the time is over, while endpoints change.
fn through_changes(world: &World, load: impl FnOnce(&AtomicBool) + Send) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| load(&stop));
        let periods = u128::from(seconds()) * 1000 / period().as_millis();
        let over = |_: &u128| wait::within(period(), || running.is_finished().then_some(()));
        let numbers = (1..=periods).take_while(|number| over(number).is_none());
        let changes = numbers.inspect(|number| world.make_change(*number % 2 == 1)).count();
        stop.store(true, Relaxed);
        assert!(changes > 1, "{changes} changes");
    });
}

// --- HTTP ---

/// Responds to requests; to those of checks with 503 while `fail` is set.
fn serve_http(stream: TcpStream, fail: &AtomicBool) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        let fails = first.starts_with("GET /health ") && fail.load(Relaxed);
        let status = if fails { "503 Service Unavailable" } else { "200 OK" };
        write!(reader.get_mut(), "HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok")?;
    }
}

#[test]
fn no_http_request_fails() {
    if !tools::have(&["h2load"]) {
        return;
    }
    for change in CHANGES {
        let (fail, never) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let servers = [&fail, &never].map(|flag| {
            let flag = Arc::clone(flag);
            Server::start(move |stream| serve_http(stream, &flag))
        });
        let pair =
            Pair { addresses: servers.each_ref().map(Server::addr), switch: Switch::Checks(fail) };
        let world = World::start(
            change,
            pair,
            "listeners: [{ name: web, address: 127.0.0.1:0, http: main }]\n\
             routes: { main: [{ hosts: \"*\", rules: [{ cluster: up }] }] }",
            &checked("http: { path: /health }", PATIENT),
        );
        for version in ["--h1", "--no-tls-proto=h2c"] {
            until_changes(|| {
                let mut load = tools::command("h2load");
                load.args(["-c", "16", "-m", "8", "-D", &seconds().to_string(), version]);
                load.arg(format!("http://{}/", world.sluice.addr("web")));
                let mut load = load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
                let changes = world.change_while(|| load.try_wait().unwrap().is_none());
                let mut text = String::new();
                load.stdout.take().unwrap().read_to_string(&mut text).unwrap();
                // What is under way when the time is over is not waited for.
                let failed = text.contains("0 failed, 0 errored, 0 timeout");
                assert!(failed && text.contains(" 0 3xx, 0 4xx, 0 5xx"), "{change:?}: {text}");
                changes
            });
        }
        let of = |class: &str| world.sluice.metric("sluice_http_requests_total", class);
        assert!(of("class=\"2xx\"") > 0, "{}", world.sluice.page("/metrics").1);
        assert_eq!(of("class=\"5xx\""), 0);
    }
}

// --- TCP ---

const RELAY: &str = "listeners: [{ name: tcp, address: 127.0.0.1:0, relay: up }]";

/// Echoes; hangs up on a check while `fail` is set.
fn echo_unless(mut stream: TcpStream, fail: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(std::net::Shutdown::Write),
            5 if &buffer[..5] == b"check" && fail.load(Relaxed) => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

#[test]
fn no_tcp_connection_ends() {
    for change in CHANGES {
        let (fail, never) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let servers = [&fail, &never].map(|flag| {
            let flag = Arc::clone(flag);
            Server::start(move |stream| echo_unless(stream, &flag))
        });
        let pair =
            Pair { addresses: servers.each_ref().map(Server::addr), switch: Switch::Checks(fail) };
        let checks = checked("tcp: { send: check, expect: check }", PATIENT);
        let world = World::start(change, pair, RELAY, &checks);
        let tcp = world.sluice.addr("tcp");
        let exchanged = AtomicU64::new(0);
        through_changes(&world, |stop| {
            std::thread::scope(|scope| {
                for number in 0..8 {
                    let exchanged = &exchanged;
                    scope.spawn(move || {
                        let mut long = connect(tcp);
                        while !stop.load(Relaxed) {
                            let words = format!("hello {number}");
                            assert_eq!(exchange(&mut long, words.as_bytes()), words.as_bytes());
                            let mut short = connect(tcp);
                            assert_eq!(exchange(&mut short, b"short"), b"short");
                            exchanged.fetch_add(1, Relaxed);
                        }
                    });
                }
            });
        });
        assert!(exchanged.load(Relaxed) > 8);
        world.check_connections();
    }
}

#[test]
fn connections_end_only_with_the_endpoint_that_died() {
    let (dead, lives) = (Server::echo(), Server::echo());
    let settings = "on_endpoint_removed: close, balance: round_robin";
    let pair = Pair { addresses: [dead.addr(), lives.addr()], switch: Switch::Operator };
    let world = World::start(Change::Flap, pair, RELAY, settings);
    let mut clients: Vec<TcpStream> = (0..8).map(|_| connect(world.sluice.addr("tcp"))).collect();
    for client in &mut clients {
        assert_eq!(exchange(client, b"hello"), b"hello");
    }
    let listed = format!(
        "{RELAY}\nclusters: {{ up: {{ endpoints: [\"{}\"], {settings} }} }}\n",
        lives.addr()
    );
    assert_eq!(world.sluice.reload(&listed), "applied");
    world.sluice.wait_open(lives.accepted());
    let mut ended = 0;
    for client in &mut clients {
        client.write_all(b"again").unwrap();
        let mut reply = [0; 5];
        match client.read_exact(&mut reply) {
            Ok(()) => assert_eq!(&reply, b"again"),
            Err(_) => ended += 1,
        }
    }
    assert_eq!(ended, dead.accepted());
}

// --- databases ---

#[test]
fn no_pgbench_transaction_fails() {
    if !Postgres::is_there() {
        return;
    }
    let servers = [Postgres::primary(), Postgres::primary()];
    for server in &servers {
        let port = server.addr().port().to_string();
        let mut fill = tools::command("pgbench");
        tools::must(fill.args([
            "-i",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "postgres",
        ]));
    }
    for change in CHANGES {
        let addresses = servers.each_ref().map(Postgres::addr);
        let world = World::start(change, Pair { addresses, switch: Switch::Operator }, RELAY, "");
        let port = world.sluice.addr("tcp").port().to_string();
        // The clients of one run keep their connections; those of the other make one for each transaction.
        for connections in [&[][..], &["-C"]] {
            until_changes(|| {
                let mut load = tools::command("pgbench");
                load.args(["-n", "-c", "4", "-T", &seconds().to_string(), "-h", "127.0.0.1", "-p"]);
                load.args([&port, "-U", "postgres"]).args(connections).arg("postgres");
                let mut load = load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                let changes = world.change_while(|| load.try_wait().unwrap().is_none());
                let output = load.wait_with_output().unwrap();
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                let none = "number of failed transactions: 0 (0.000%)";
                assert!(output.status.success() && text.contains(none), "{change:?}: {text}");
                changes
            });
        }
        world.check_connections();
    }
}

#[test]
fn no_redis_command_fails() {
    if !tools::have(&["redis-server", "redis-benchmark"]) {
        return;
    }
    let start = || {
        let port = tools::free_port();
        let mut server = tools::command("redis-server");
        server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        (tools::serve(&mut server, address), address)
    };
    let (one, two) = (start(), start());
    for change in CHANGES {
        let pair = Pair { addresses: [one.1, two.1], switch: Switch::Operator };
        let world = World::start(change, pair, RELAY, "");
        let port = world.sluice.addr("tcp").port().to_string();
        through_changes(&world, |stop| {
            // Connections are kept in every other run, and made anew for each command in the next.
            for keep in ["1", "0"].into_iter().cycle().take_while(|_| !stop.load(Relaxed)) {
                let mut load = tools::command("redis-benchmark");
                load.args(["-p", &port, "-q", "-c", "8", "-n", "2000", "-t", "ping,set,get"]);
                let text = tools::must(load.args(["-k", keep]));
                assert!(!text.contains("rror"), "{change:?}: {text}");
            }
        });
        world.check_connections();
    }
}

// --- UDP ---

#[test]
fn no_datagram_is_lost() {
    for change in CHANGES {
        let fail = Arc::new(AtomicBool::new(false));
        let echoed = Arc::new(AtomicU64::new(0));
        let flag = Arc::clone(&fail);
        let start = |fails: Option<Arc<AtomicBool>>| {
            let echoed = Arc::clone(&echoed);
            UdpServer::start(move |datagram| {
                if datagram == b"check" {
                    let fails = fails.as_ref().is_some_and(|flag| flag.load(Relaxed));
                    return if fails { Vec::new() } else { vec![datagram.to_vec()] };
                }
                echoed.fetch_add(1, Relaxed);
                vec![datagram.to_vec()]
            })
        };
        let servers = [start(Some(flag)), start(None)];
        let addresses = servers.each_ref().map(UdpServer::addr);
        let world = World::start(
            change,
            Pair { addresses, switch: Switch::Checks(fail) },
            "listeners: [{ name: udp, address: udp://127.0.0.1:0, relay: { cluster: up, idle_timeout: 2s } }]",
            &checked("udp: { send: check, expect: check }", "2s"),
        );
        let udp = world.sluice.addr("udp");
        let sent = AtomicU64::new(0);
        through_changes(&world, |stop| {
            std::thread::scope(|scope| {
                for client in 0..8 {
                    let sent = &sent;
                    scope.spawn(move || ping(&udp_client(), udp, client, sent, stop));
                }
            });
        });
        let sent = sent.load(Relaxed);
        assert!(sent > 8);
        assert_eq!(echoed.load(Relaxed), sent, "each datagram reaches one endpoint, once");
        let datagrams = |result: &str| {
            world.sluice.metric("sluice_flow_datagrams_total", &format!("result=\"{result}\""))
        };
        for lost in ["dropped", "refused"] {
            assert_eq!(datagrams(lost), 0, "{change:?}: {lost}");
        }
        assert!(datagrams("received") > 0);
        // Each is counted once it has been sent.
        wait::until("all to be counted", || {
            (datagrams("received") == datagrams("sent")).then_some(())
        });
    }
}

/// Sends one datagram after another and waits for each to come back.
fn ping(client: &UdpSocket, to: SocketAddr, number: u64, sent: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    for turn in 0_u64.. {
        if stop.load(Relaxed) {
            return;
        }
        let words = format!("{number} {turn}");
        client.send_to(words.as_bytes(), to).unwrap();
        sent.fetch_add(1, Relaxed);
        let count = client.recv(&mut buffer).unwrap_or_else(|error| panic!("{words}: {error}"));
        assert_eq!(&buffer[..count], words.as_bytes());
    }
}
