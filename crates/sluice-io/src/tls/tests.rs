use std::future::{Future, poll_fn};
use std::rc::Rc;

use sluice_core::clock::ClockOrigin;
use sluice_tls::server::{ServerPlan, TlsVersion};
use sluice_tls::{Authorities, CertStore, ClientPlan, ClientTls, EarlySessions, ServerTls, Verify};
use std::os::unix::net::UnixStream;

use super::*;
use crate::stream::Stream;

fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(test);
}

struct Certified {
    server: ServerTls,
    /// The same server, which knows none of its sessions.
    forgetful: ServerTls,
    client: ClientTls,
}

fn certified(min_version: TlsVersion) -> Certified {
    certified_with(min_version, None)
}

fn certified_with(min_version: TlsVersion, early: Option<EarlySessions>) -> Certified {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (stored, _) = CertStore::default().load(&cert.as_path().into(), &key.into()).unwrap();
    let mut authorities = Authorities::default();
    let plan = ServerPlan {
        certificates: vec![stored],
        alpn: vec![b"echo".to_vec()],
        client_auth: None,
        min_version,
        early: None,
    };
    let forgetful = ServerTls::build(plan.clone(), &mut authorities);
    let plan = ServerPlan { early: early.clone(), ..plan };
    let server = ServerTls::build(plan, &mut authorities);
    let plan = ClientPlan {
        verify: Verify::Ca(cert.into()),
        sni: None,
        send_sni: true,
        names: Vec::new(),
        certificate: None,
        alpn: vec![b"echo".to_vec()],
        min_version,
        http2: false,
        http3: false,
        early_data: early.is_some(),
    };
    let client = ClientTls::build(plan, &mut authorities);
    Certified { server: server.unwrap(), forgetful: forgetful.unwrap(), client: client.unwrap() }
}

fn raw_pair(worker: &WorkerCx) -> (RawStream, RawStream) {
    let (a, b) = UnixStream::pair().unwrap();
    (raw(worker, &a), raw(worker, &b))
}

fn raw(worker: &WorkerCx, socket: &UnixStream) -> RawStream {
    socket.set_nonblocking(true).unwrap();
    RawStream::new(worker.reactor.register(socket.try_clone().unwrap()).unwrap())
}

async fn connected(
    worker: &Rc<WorkerCx>,
    made: &Certified,
    name: &'static str,
) -> (Result<TlsStream, HandshakeError>, Result<TlsStream, HandshakeError>) {
    let (a, b) = raw_pair(worker);
    let mut server = TlsStream::server(a, &made.server).unwrap();
    let mut client = TlsStream::client(b, &made.client, name.try_into().unwrap()).unwrap();
    let one = async move {
        let done = poll_fn(|cx| server.poll_handshake(cx, worker)).await;
        done.map(|()| server)
    };
    let two = async move {
        let done = poll_fn(|cx| client.poll_handshake(cx, worker)).await;
        done.map(|()| client)
    };
    tokio::join!(one, two)
}

async fn send(stream: &mut Stream, worker: &WorkerCx, data: &[u8]) {
    poll_fn(|cx| stream.poll_flushed(cx)).await.unwrap();
    poll_fn(|cx| Poll::Ready(stream.send(cx, worker, data))).await.unwrap();
}

async fn receive(stream: &mut Stream, worker: &WorkerCx, room: usize) -> Vec<u8> {
    let mut into = vec![0; room];
    let count = poll_fn(|cx| stream.poll_recv(cx, worker, &mut into)).await.unwrap();
    into.truncate(count);
    into
}

#[test]
fn both_versions_shake_hands_and_carry_data_both_ways() {
    run(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let (server, client) = connected(&worker, &certified(version), "a.test").await;
            let (server, client) = (server.unwrap(), client.unwrap());
            assert_eq!(server.facts().alpn.as_deref(), Some(&b"echo"[..]));
            assert_eq!(client.facts().version, "1.3");
            let (mut server, mut client) =
                (Stream::Tls(Box::new(server)), Stream::Tls(Box::new(client)));
            send(&mut client, &worker, b"ping").await;
            assert_eq!(receive(&mut server, &worker, 64).await, b"ping");
            // More than the caller has room for arrives in pieces, without loss.
            let big: Vec<u8> = (0..SCRATCH).map(|n| u8::try_from(n % 251).unwrap()).collect();
            send(&mut server, &worker, &big).await;
            let mut got = Vec::new();
            while got.len() < big.len() {
                poll_fn(|cx| match server.poll_flushed(cx) {
                    Poll::Ready(done) => Poll::Ready(done),
                    Poll::Pending => Poll::Ready(Ok(())),
                })
                .await
                .unwrap();
                got.extend(receive(&mut client, &worker, 1000).await);
            }
            assert!(got == big);
        }
    });
}

#[test]
fn what_is_given_back_comes_before_what_a_small_read_left_over() {
    run(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        let (server, client) = connected(&worker, &certified(TlsVersion::V1_3), "a.test").await;
        let mut server = Stream::Tls(Box::new(server.unwrap()));
        let mut client = Stream::Tls(Box::new(client.unwrap()));
        send(&mut client, &worker, b"one record").await;
        let seen = receive(&mut server, &worker, 4).await;
        assert_eq!(seen, b"one ");
        for _ in 0..2 {
            server.give_back(&worker.buffers, &seen).unwrap();
        }
        assert_eq!(receive(&mut server, &worker, 64).await, b"one one record");
    });
}

#[test]
fn a_close_notify_is_an_end_and_its_absence_is_told() {
    run(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        for polite in [true, false] {
            let (server, client) = connected(&worker, &certified(TlsVersion::V1_3), "a.test").await;
            let mut server = Stream::Tls(Box::new(server.unwrap()));
            let mut client = Stream::Tls(Box::new(client.unwrap()));
            if polite {
                poll_fn(|cx| Poll::Ready(client.close_notify(cx, &worker))).await.unwrap();
                assert_eq!(receive(&mut server, &worker, 64).await, b"");
                // The other direction continues after it.
                send(&mut server, &worker, b"last").await;
                assert_eq!(receive(&mut client, &worker, 64).await, b"last");
            } else {
                client.raw().finish().unwrap();
                assert_eq!(receive(&mut server, &worker, 64).await, b"");
            }
            assert_eq!(server.was_truncated(), !polite);
        }
    });
}

#[test]
fn a_wrong_name_fails_on_both_sides_with_the_alert() {
    run(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        let (server, client) = connected(&worker, &certified(TlsVersion::V1_3), "b.test").await;
        assert!(matches!(client, Err(HandshakeError::Tls(rustls::Error::InvalidCertificate(_)))));
        assert!(
            matches!(server, Err(HandshakeError::Tls(rustls::Error::AlertReceived(_)))),
            "{server:?}"
        );
    });
}

#[test]
fn a_handshake_cut_at_every_byte_still_succeeds() {
    run(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        let made = certified(TlsVersion::V1_3);
        let ((a, left), (right, b)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let (a, b) = (raw(&worker, &a), raw(&worker, &b));
        let dribble = |mut from: RawStream, mut to: RawStream| async move {
            let mut byte = [0; 1];
            while poll_fn(|cx| from.poll_recv(cx, &mut byte)).await.is_ok_and(|count| count == 1) {
                poll_fn(|cx| to.poll_flushed(cx)).await.unwrap();
                poll_fn(|cx| {
                    Poll::Ready(to.send(
                        cx,
                        &WorkerCx::solitary(ClockOrigin::read().clock()).buffers,
                        &byte,
                    ))
                })
                .await
                .unwrap();
                tokio::task::yield_now().await;
            }
        };
        let mut server = TlsStream::server(a, &made.server).unwrap();
        let mut client = TlsStream::client(b, &made.client, "a.test".try_into().unwrap()).unwrap();
        // Only the client's bytes dribble; the server's reply is relayed by the test's own sockets.
        let stream = |socket| raw(&worker, socket);
        let (up, down) =
            (dribble(stream(&right), stream(&left)), dribble(stream(&left), stream(&right)));
        let both = async {
            tokio::join!(
                poll_fn(|cx| server.poll_handshake(cx, &worker)),
                poll_fn(|cx| client.poll_handshake(cx, &worker)),
            )
        };
        tokio::select! {
            (server, client) = both => { server.unwrap(); client.unwrap(); }
            _ = async { tokio::join!(up, down) } => panic!("the relay ended before the handshake"),
        }
    });
}

// --- early data ---

/// Both sides, with sessions that nobody else has.
fn granting(name: &str) -> Certified {
    certified_with(TlsVersion::V1_3, Some(EarlySessions { count: 16, of: name.to_owned() }))
}

/// A whole connection, from which the client keeps a session.
async fn visit(worker: &Rc<WorkerCx>, made: &Certified) {
    let (server, client) = connected(worker, made, "a.test").await;
    let (mut server, mut client) =
        (Stream::Tls(Box::new(server.unwrap())), Stream::Tls(Box::new(client.unwrap())));
    send(&mut server, worker, b"ticket").await;
    assert_eq!(receive(&mut client, worker, 64).await, b"ticket");
}

/// A client that has begun with early data, and whether it could.
async fn begun(worker: &WorkerCx, socket: &UnixStream, made: &Certified) -> (Stream, bool) {
    let name = "a.test".try_into().unwrap();
    let mut client = TlsStream::early_client(raw(worker, socket), &made.client, name).unwrap();
    let open = poll_fn(|cx| client.poll_begin_early(cx, worker)).await.unwrap();
    (Stream::Tls(Box::new(client)), open)
}

async fn shake(stream: &mut Stream, worker: &WorkerCx) -> Result<(), HandshakeError> {
    poll_fn(|cx| stream.poll_handshake(cx, worker)).await
}

/// Receives until `length` bytes have come.
async fn receive_all(stream: &mut Stream, worker: &WorkerCx, length: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < length {
        got.extend(receive(stream, worker, 5000).await);
    }
    got
}

#[test]
fn early_data_arrives_before_the_handshake_is_complete() {
    run(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        let made = granting("arrives");
        let (a, b) = UnixStream::pair().unwrap();
        let (_, open) = begun(&worker, &a, &made).await;
        assert!(!open, "there is no earlier session");
        drop(b);
        visit(&worker, &made).await;
        let (a, b) = UnixStream::pair().unwrap();
        let (mut client, open) = begun(&worker, &a, &made).await;
        assert!(open && client.is_early());
        send(&mut client, &worker, b"ea").await;
        send(&mut client, &worker, b"rly").await;
        let mut server =
            Stream::Tls(Box::new(TlsStream::server(raw(&worker, &b), &made.server).unwrap()));
        shake(&mut server, &worker).await.unwrap();
        assert!(server.is_early() && server.had_early_data());
        assert_eq!(receive_all(&mut server, &worker, 5).await, b"early");
        // The reply does not wait for the client's last message either.
        send(&mut server, &worker, b"reply").await;
        assert!(server.is_early());
        shake(&mut client, &worker).await.unwrap();
        assert!(!client.is_early() && client.had_early_data());
        assert_eq!(receive_all(&mut client, &worker, 5).await, b"reply");
        send(&mut client, &worker, b"late").await;
        assert_eq!(receive_all(&mut server, &worker, 4).await, b"late");
        assert!(!server.is_early());
        let Stream::Tls(server) = server else { unreachable!() };
        assert!(server.facts().early && server.facts().resumed);
    });
}

#[test]
fn what_the_server_does_not_take_early_arrives_after_the_handshake() {
    run(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        let made = granting("takes");
        let all: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
        // A server that takes as much as it allows, and one that takes nothing.
        for (server_tls, taken) in [(&made.server, true), (&made.forgetful, false)] {
            visit(&worker, &made).await;
            let (a, b) = UnixStream::pair().unwrap();
            let (mut client, open) = begun(&worker, &a, &made).await;
            assert!(open);
            for piece in all.chunks(20_000) {
                send(&mut client, &worker, piece).await;
            }
            let mut server =
                Stream::Tls(Box::new(TlsStream::server(raw(&worker, &b), server_tls).unwrap()));
            let theirs = async {
                shake(&mut server, &worker).await?;
                assert_eq!(server.had_early_data(), taken);
                Ok::<_, HandshakeError>(receive_all(&mut server, &worker, all.len()).await)
            };
            let ours = async {
                let done = shake(&mut client, &worker).await;
                poll_fn(|cx| client.poll_flushed(cx)).await.unwrap();
                done
            };
            let (got, done) = tokio::join!(theirs, ours);
            done.unwrap();
            assert!(got.unwrap() == all);
            assert_eq!(client.had_early_data(), taken);
        }
    });
}

#[test]
fn random_bytes_never_panic_and_always_end() {
    run(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        let made = certified(TlsVersion::V1_3);
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let length = rng.usize(1..5000);
            let (a, mut b) = raw_pair(&worker);
            let mut server = TlsStream::server(a, &made.server).unwrap();
            let mut noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
            // Half of them look like a handshake record.
            if rng.bool() && noise.len() > 5 {
                noise[..5].copy_from_slice(&[22, 3, 1, 0, rng.u8(..)]);
            }
            poll_fn(|cx| Poll::Ready(b.send(cx, &worker.buffers, &noise))).await.unwrap();
            b.finish().unwrap();
            assert!(poll_fn(|cx| server.poll_handshake(cx, &worker)).await.is_err(), "seed {seed}");
        }
    });
}
