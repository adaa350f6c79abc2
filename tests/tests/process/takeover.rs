//! Two processes and one address: refused, unless one takes over from the other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_testkit::peers::{Server, UdpServer, udp_client};
use sluice_testkit::{Authority, Origin, Running, Sluice, http3, tools, wait};
use sluice_tests::h3::configuration;

/// Flows end with their reply, so that a drain ends with the connections that are being served, however long that takes.
fn yaml(port: u16, socket: &str, tcp: SocketAddr, udp: SocketAddr) -> String {
    format!(
        "listeners:\n\
         \x20 - {{ name: tcp, address: [\"127.0.0.1:{port}\", \"{socket}\"], relay: tcp }}\n\
         \x20 - {{ name: udp, address: \"udp://127.0.0.1:{port}\", relay: {{ cluster: udp, responses: 1 }} }}\n\
         clusters: {{ tcp: {{ endpoints: [\"{tcp}\"] }}, udp: {{ endpoints: [\"{udp}\"] }} }}\n"
    )
}

#[test]
fn only_from_sluice_can_an_address_be_taken_over() {
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sluice.yaml");
    let text = format!(
        "listeners: [{{ name: a, address: \"{}\", relay: up }}]\nclusters: {{ up: {{ endpoints: [127.0.0.1:1] }} }}\n",
        stranger.local_addr().unwrap()
    );
    std::fs::write(&config, text).unwrap();
    let ended = tools::run(
        tools::command(Sluice::binary().to_str().unwrap()).arg("run").arg("-c").arg(&config),
    );
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("already listens there; stop it, or use another address"), "{said}");
    assert!(!said.contains("--takeover"), "{said}");
}

#[test]
fn a_second_process_on_an_address_is_refused_and_the_holder_is_named() {
    let (server, udp) = (Server::echo(), UdpServer::echo(""));
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}", folder.path().join("a.sock").display());
    let port = tools::free_port();
    let first = Sluice::new().start(&yaml(port, &socket, server.addr(), udp.addr()));
    let holder = format!("process {} (sluice)", first.pid());
    for address in [
        format!("127.0.0.1:{port}"),
        format!("0.0.0.0:{port}"),
        format!("udp://127.0.0.1:{port}"),
        socket,
    ] {
        let config = folder.path().join("second.yaml");
        let text = format!(
            "listeners: [{{ name: second, address: \"{address}\", relay: up }}]\nclusters: {{ up: {{ endpoints: [127.0.0.1:1] }} }}\n"
        );
        std::fs::write(&config, text).unwrap();
        let ended = tools::run(
            tools::command(Sluice::binary().to_str().unwrap()).arg("run").arg("-c").arg(&config),
        );
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{address}: {said}");
        for part in ["`second`", &*holder, "--takeover"] {
            assert!(said.contains(part), "{address}: {part} is missing from\n{said}");
        }
    }
    let config = folder.path().join("admin.yaml");
    std::fs::write(&config, format!("admin: {{ address: \"{}\" }}\n", first.admin_addr())).unwrap();
    let ended = tools::run(
        tools::command(Sluice::binary().to_str().unwrap()).arg("run").arg("-c").arg(&config),
    );
    assert!(String::from_utf8_lossy(&ended.stderr).contains(&holder));
    // A process does not block its own addresses.
    let again = yaml(
        port,
        &format!("unix://{}", folder.path().join("a.sock").display()),
        server.addr(),
        udp.addr(),
    );
    assert_eq!(
        first.reload(&again.replace("relay: tcp }", "relay: { cluster: tcp, idle_timeout: 1m } }")),
        "applied"
    );
}

#[test]
fn a_process_takes_over_from_another_under_load() {
    let (old_server, new_server) = (Server::greeter("o"), Server::greeter("n"));
    let (old_udp, new_udp) = (UdpServer::echo("o"), UdpServer::echo("n"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let socket = format!("unix://{}", path.display());
    let port = tools::free_port();
    let at: SocketAddr = ([127, 0, 0, 1], port).into();
    let mut old = Sluice::new().start(&yaml(port, &socket, old_server.addr(), old_udp.addr()));
    // A datagram may be lost while the port changes hands.
    let ask_udp = || {
        wait::until("a reply", || {
            let client = udp_client();
            client.connect(at).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
            client.send(b"x").unwrap();
            let mut answer = [0; 4];
            client.recv(&mut answer).ok().map(|_| answer[0])
        })
    };
    assert_eq!(ask_udp(), b'o');
    let ask_unix = || {
        let mut answer = [0];
        UnixStream::connect(&path).unwrap().read_exact(&mut answer).unwrap();
        answer[0]
    };
    assert_eq!(ask_unix(), b'o');

    let (stop, served, cut) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let new_kit = Sluice::new().taking_over();
    let new: Running = std::thread::scope(|scope| {
        // Whatever happens below, the clients end with it.
        let _stops = StopOnDrop(&stop);
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    match greeted(at) {
                        Greeted::Whole => served.fetch_add(1, Ordering::SeqCst),
                        Greeted::NotAtAll => cut.fetch_add(1, Ordering::SeqCst),
                    };
                }
            });
        }
        let some = |count: usize| {
            let before = served.load(Ordering::SeqCst);
            wait::until("clients to be served", || {
                (served.load(Ordering::SeqCst) > before + count).then_some(())
            });
        };
        some(50);
        let new = new_kit.start(&yaml(port, &socket, new_server.addr(), new_udp.addr()));
        assert_eq!(ask_unix(), b'n', "the path leads to the new process");
        assert_eq!(ask_udp(), b'o', "UDP stays with the old one while it runs");
        some(50);
        old.signal("TERM");
        assert!(old.wait_end().success());
        some(50);
        new
    });
    // Clients queued by the kernel on a socket that closed are reset before they receive anything (docs/operating.md): at most
    // all of them, once for the socket of each worker.
    let cut = cut.load(Ordering::SeqCst);
    assert!(cut <= 16, "{cut} clients were cut off, {} served", served.load(Ordering::SeqCst));
    wait::until("UDP to be taken over", || (ask_udp() == b'n').then_some(()));
    assert_eq!(ask_unix(), b'n', "the old process has left the path alone");
    assert!(new.log().contains("served once it is free"), "{}", new.log());
}

/// QUIC stays with the old process, which serves what it began; then the new one has the port.
#[test]
fn a_quic_port_changes_hands_after_its_last_request() {
    let (old_origin, new_origin) = (Origin::start("o"), Origin::start("n"));
    let at: SocketAddr = ([127, 0, 0, 1], tools::free_port()).into();
    let kit = || {
        let kit = Sluice::new();
        Authority::new(kit.folder()).issue("web", &["web.test"]);
        kit
    };
    let yaml = |origin: &Origin| {
        configuration("web", origin.addr(), "true").replace("127.0.0.1:0", &at.to_string())
    };
    let mut old = kit().start(&yaml(&old_origin));
    let authority = |of: &Running| of.folder().join("ca.pem");
    // A client trusts the certificate of one process: who is served knows by whom.
    let ask = |of: &Running, path: &str| {
        http3::run(&authority(of), None, async |client| {
            client.connect(at, "web.test").await?.ask("GET", path).await
        })
    };
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let new = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            http3::run(&authority(&old), None, async |client| {
                let go_on = |answer: http3::Answer| {
                    served.fetch_add(usize::from(answer.status == 200), Ordering::SeqCst);
                    answer.status == 200 && !stop.load(Ordering::SeqCst)
                };
                client.connect(at, "web.test").await?.ask_always(4, "/bytes/1000", go_on).await
            })
        });
        let some = |count: usize| {
            let before = served.load(Ordering::SeqCst);
            wait::until("requests to be served", || {
                (served.load(Ordering::SeqCst) > before + count).then_some(())
            });
        };
        some(50);
        let new = kit().taking_over().start(&yaml(&new_origin));
        some(50);
        assert_eq!(ask(&old, "/bytes/1").unwrap().status, 200, "a new connection to the old one");
        stop.store(true, Ordering::SeqCst);
        load.join().unwrap().unwrap();
        assert!(new_origin.requests().is_empty(), "nothing over QUIC reached the new process");
        let waiting = scope.spawn(|| ask(&old, "/wait"));
        wait::until("the request that waits", || {
            old_origin.requests().iter().any(|asked| asked.path() == "/wait").then_some(())
        });
        old.signal("TERM");
        wait::until("the old process to drain", || old.log().contains("draining").then_some(()));
        old_origin.release();
        assert_eq!(waiting.join().unwrap().unwrap().status, 200, "what was begun is finished");
        new
    });
    assert!(old.wait_end().success());
    wait::until("QUIC to be taken over", || {
        http3::answers(&authority(&new), at, "web.test").then_some(())
    });
    assert_eq!(ask(&new, "/bytes/1").unwrap().status, 200);
    assert_eq!(new_origin.requests().len(), 1);
}

#[test]
fn a_failed_takeover_leaves_unix_sockets_to_the_running_process() {
    let server = Server::greeter("o");
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("a.sock"), folder.path().join("file"));
    std::fs::write(&file, "").unwrap();
    let yaml = format!(
        "listeners: [{{ name: a, address: \"unix://{}\", relay: up }}]\nclusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        path.display(),
        server.addr()
    );
    let _running = Sluice::new().start(&yaml);
    let config = folder.path().join("second.yaml");
    let blocked = format!("unix://{}", file.display());
    let more_listeners = yaml.replace(
        "listeners: [",
        &format!("listeners: [{{ name: b, address: \"{blocked}\", relay: up }}, "),
    );
    let last =
        yaml.replace("}]", &format!("}}, {{ name: z, address: \"{blocked}\", relay: up }}]"));
    for second in [format!("admin: {{ address: \"{blocked}\" }}\n{yaml}"), more_listeners, last] {
        std::fs::write(&config, &second).unwrap();
        let mut command = tools::command(Sluice::binary().to_str().unwrap());
        let ended = tools::run(command.args(["run", "--takeover", "-c"]).arg(&config));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains("not a socket"), "{said}");
        let mut answer = [0];
        UnixStream::connect(&path).unwrap().read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"o", "the path leads to the running process after\n{second}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left behind");
    }
}

/// Stops the clients of a test, if it fails too.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The outcome of a client.
enum Greeted {
    Whole,
    NotAtAll,
}

fn greeted(at: SocketAddr) -> Greeted {
    let Ok(mut stream) = TcpStream::connect(at) else { return Greeted::NotAtAll };
    let mut greeting = [0];
    if stream.read_exact(&mut greeting).is_err() {
        return Greeted::NotAtAll;
    }
    // A client that received the first byte is served to the end.
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    Greeted::Whole
}
