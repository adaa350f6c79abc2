use std::future::{Future, poll_fn};
use std::rc::Rc;

use sluice_core::clock::ClockOrigin;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::byte_filter::{ByteFilter, ByteRelease, ByteResume, ByteStep};
use crate::raw::RawStream;
use crate::tap::ByteTap;

fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(test);
}

async fn tcp_pair(worker: &WorkerCx) -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    // Room for the consecutive reads that make a direction splice, however slowly the peers are scheduled.
    rustix::net::sockopt::set_socket_recv_buffer_size(&far, 1 << 20).unwrap();
    let far = worker.reactor.register(far.into_std().unwrap()).unwrap();
    (near, Stream::Raw(RawStream::new(far)))
}

struct Rig {
    worker: Rc<WorkerCx>,
    client: TcpStream,
    server: TcpStream,
    pump: Pump,
}

impl Rig {
    async fn new() -> Self {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        let (client, downstream) = tcp_pair(&worker).await;
        let (server, upstream) = tcp_pair(&worker).await;
        Self { worker, client, server, pump: Pump::new(downstream, upstream) }
    }

    /// Pumps to the end and closes both sockets, as the owner of a pump does.
    async fn pump_until_stopped(mut pump: Pump, worker: &WorkerCx, moved: &mut Moved) -> Stopped {
        poll_fn(|cx| pump.poll(cx, worker, None, moved)).await
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

#[test]
fn each_side_may_finish_first() {
    run(async {
        let Rig { worker, mut client, mut server, pump } = Rig::new().await;
        let mut moved = Moved::default();
        let ends = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"question");
            server.write_all(b"a long answer").await.unwrap();
            drop(server);
            got.clear();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"a long answer");
        };
        let (stopped, ()) = tokio::join!(Rig::pump_until_stopped(pump, &worker, &mut moved), ends);
        assert!(matches!(stopped, Stopped::Done), "{stopped:?}");
        assert_eq!(moved, Moved { received: 8, sent: 13 });
    });
}

#[test]
fn bulk_is_spliced_and_arrives_whole_both_ways() {
    run(async {
        let Rig { worker, client, server, mut pump } = Rig::new().await;
        let data = pattern(24 << 20);
        let mut moved = Moved::default();
        let mut spliced = [false; 2];
        let side = |mut stream: TcpStream, data: Vec<u8>| async move {
            let (mut read, mut write) = stream.split();
            let mut got = Vec::new();
            let (sent, received) = tokio::join!(
                async {
                    write.write_all(&data).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut got)
            );
            sent.unwrap();
            received.unwrap();
            assert!(got == data);
        };
        let pumping = async {
            let stopped = poll_fn(|cx| {
                let polled = pump.poll(cx, &worker, None, &mut moved);
                spliced[0] |= pump.to_upstream.state == CopyState::Splicing;
                spliced[1] |= pump.to_downstream.state == CopyState::Splicing;
                polled
            })
            .await;
            drop(pump);
            stopped
        };
        // The sides first: there is much to move before anything moves.
        let ((), (), stopped) =
            tokio::join!(side(client, data.clone()), side(server, data.clone()), pumping);
        // How soon a direction splices depends on scheduling; that one does is certain.
        let some = spliced.contains(&true);
        assert!(matches!(stopped, Stopped::Done) && some, "{stopped:?}, spliced: {spliced:?}");
        assert_eq!(moved, Moved { received: 24 << 20, sent: 24 << 20 });
        assert_eq!(worker.buffers.bytes_out(), 0);
    });
}

#[test]
fn with_a_tap_bulk_is_copied() {
    run(async {
        let Rig { worker, client, mut server, mut pump } = Rig::new().await;
        let data = pattern(8 << 20);
        let mut moved = Moved::default();
        let sending = async {
            server.write_all(&data).await.unwrap();
            drop(server);
        };
        let receiving = async {
            let mut client = client;
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            assert!(got == data);
        };
        let tap = Rc::new(Counting::default());
        let mut hooks = ByteHooks { taps: vec![Rc::clone(&tap) as _], ..ByteHooks::default() };
        let pumping = poll_fn(|cx| {
            let polled = pump.poll(cx, &worker, Some(&mut hooks), &mut moved);
            assert_ne!(pump.to_downstream.state, CopyState::Splicing);
            // Until the client closes only one direction can be done.
            if pump.is_half_closed() { Poll::Ready(None) } else { polled.map(Some) }
        });
        let ((stopped, ()), ()) = tokio::join!(async { tokio::join!(pumping, sending) }, receiving);
        assert!(stopped.is_none(), "{stopped:?}");
        assert_eq!(tap.0.get(), 8 << 20);
    });
}

#[derive(Debug, Default)]
struct Counting(std::cell::Cell<usize>);
impl ByteTap for Counting {
    fn received(&self, bytes: &[u8]) {
        assert!(bytes.is_empty(), "the client said nothing");
    }

    fn sent(&self, bytes: &[u8]) {
        self.0.set(self.0.get() + bytes.len());
    }
}

#[test]
fn a_reset_is_told_apart_by_side() {
    run(async {
        for from_client in [true, false] {
            let Rig { worker, client, server, pump } = Rig::new().await;
            let victim = if from_client { &client } else { &server };
            sluice_sys::socket::reset_on_close(victim);
            let keep = if from_client {
                drop(client);
                server
            } else {
                drop(server);
                client
            };
            let stopped = Rig::pump_until_stopped(pump, &worker, &mut Moved::default()).await;
            match stopped {
                Stopped::Downstream(error) if from_client => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset)
                }
                Stopped::Upstream(error) if !from_client => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset)
                }
                other => panic!("{other:?}"),
            }
            drop(keep);
        }
    });
}

/// Doubles every byte from the client, and holds back what the server sends until the end.
#[derive(Debug, Default)]
struct Stretching {
    kept: Vec<u8>,
}

impl ByteFilter for Stretching {
    fn received(&mut self, bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        *bytes = bytes.iter().flat_map(|byte| [*byte, *byte]).collect();
        ByteStep::Continue
    }

    fn sent(&mut self, bytes: &mut Vec<u8>, last: bool) -> ByteStep {
        self.kept.append(bytes);
        if last {
            bytes.append(&mut self.kept);
        }
        ByteStep::Continue
    }
}

/// Appends a letter to each piece after a turn of the event loop.
#[derive(Debug)]
struct Appending(u8);

impl ByteFilter for Appending {
    fn received(&mut self, bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        if bytes.is_empty() {
            return ByteStep::Continue;
        }
        let letter = self.0;
        ByteStep::Wait(Box::pin(async move {
            tokio::task::yield_now().await;
            Box::new(move |bytes: &mut Vec<u8>| {
                bytes.push(letter);
                ByteStep::Continue
            }) as ByteResume
        }))
    }
}

#[test]
fn filters_change_bytes_in_their_order_and_may_wait() {
    run(async {
        let Rig { worker, mut client, mut server, mut pump } = Rig::new().await;
        let filters: Vec<Box<dyn ByteFilter>> =
            vec![Box::new(Appending(b'!')), Box::new(Stretching::default())];
        let mut hooks = ByteHooks { filters, ..ByteHooks::default() };
        let mut moved = Moved::default();
        let ends = async {
            client.write_all(b"ab").await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"aabb!!");
            // More than one read takes, so that pieces are held back and sent as one.
            server.write_all(&pattern(300_000)).await.unwrap();
            server.shutdown().await.unwrap();
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, pattern(300_000));
        };
        let pumping = async {
            let stopped = poll_fn(|cx| pump.poll(cx, &worker, Some(&mut hooks), &mut moved)).await;
            drop(pump);
            stopped
        };
        let (stopped, ()) = tokio::join!(pumping, ends);
        assert!(matches!(stopped, Stopped::Done));
        assert_eq!(moved, Moved { received: 2, sent: 300_000 });
        assert_eq!(worker.buffers.bytes_out(), 0);
    });
}

/// Lets nothing through: it waits forever for bytes from the client, and cuts the connection off at those to it.
#[derive(Debug)]
struct Closed;

impl ByteFilter for Closed {
    fn received(&mut self, _bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        ByteStep::Wait(Box::pin(std::future::pending()))
    }

    fn sent(&mut self, _bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        ByteStep::Cut(sluice_core::reason::end::FORCED)
    }
}

#[test]
fn a_wait_of_a_filter_is_due_and_a_cut_stops_the_pump() {
    run(async {
        let Rig { worker, mut client, mut server, mut pump } = Rig::new().await;
        let mut hooks = ByteHooks { filters: vec![Box::new(Closed)], ..ByteHooks::default() };
        let mut moved = Moved::default();
        assert_eq!(pump.filter_due(), Moment::NEVER);
        client.write_all(b"x").await.unwrap();
        poll_fn(|cx| {
            let polled = pump.poll(cx, &worker, Some(&mut hooks), &mut moved);
            assert!(polled.is_pending());
            if moved.received > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert!(pump.filter_due() < worker.now().after(std::time::Duration::from_secs(11)));
        server.write_all(b"y").await.unwrap();
        let stopped = poll_fn(|cx| pump.poll(cx, &worker, Some(&mut hooks), &mut moved)).await;
        assert!(matches!(stopped, Stopped::Cut(why) if why == sluice_core::reason::end::FORCED));
    });
}

/// Keeps what the client sends until it is told to let it go, and closes the connection once that is gone and more arrives from the
/// endpoint.
#[derive(Debug, Default)]
struct Keeping {
    kept: Vec<u8>,
    told: Rc<std::cell::RefCell<(bool, Option<std::task::Waker>)>>,
    over: bool,
}

impl ByteFilter for Keeping {
    fn received(&mut self, bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        self.kept.append(bytes);
        ByteStep::Continue
    }

    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<ByteRelease> {
        let mut told = self.told.borrow_mut();
        if told.0 && !self.kept.is_empty() {
            return Poll::Ready(ByteRelease::Bytes(std::mem::take(&mut self.kept)));
        }
        told.1 = Some(cx.waker().clone());
        Poll::Pending
    }

    fn sent(&mut self, _bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        self.over = true;
        ByteStep::Continue
    }

    fn poll_sent(&mut self, _cx: &mut Context<'_>) -> Poll<ByteRelease> {
        match self.over {
            true => Poll::Ready(ByteRelease::Close(sluice_core::reason::end::FORCED)),
            false => Poll::Pending,
        }
    }
}

#[test]
fn a_filter_lets_bytes_go_and_ends_the_connection_of_its_own_accord() {
    run(async {
        let Rig { worker, mut client, mut server, mut pump } = Rig::new().await;
        let keeping = Keeping::default();
        let told = Rc::clone(&keeping.told);
        let filters: Vec<Box<dyn ByteFilter>> =
            vec![Box::new(Stretching::default()), Box::new(keeping), Box::new(Appending(b'!'))];
        let mut hooks = ByteHooks { filters, ..ByteHooks::default() };
        let mut moved = Moved::default();
        client.write_all(b"ab").await.unwrap();
        poll_fn(|cx| {
            assert!(pump.poll(cx, &worker, Some(&mut hooks), &mut moved).is_pending());
            if moved.received == 2 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let ends = async {
            let waker = {
                let mut told = told.borrow_mut();
                told.0 = true;
                told.1.take()
            };
            waker.into_iter().for_each(std::task::Waker::wake);
            let mut got = [0; 5];
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"aabb!");
            server.write_all(b"y").await.unwrap();
        };
        let pumping = poll_fn(|cx| pump.poll(cx, &worker, Some(&mut hooks), &mut moved));
        let (stopped, ()) = tokio::join!(pumping, ends);
        assert!(matches!(stopped, Stopped::Closed(why) if why == sluice_core::reason::end::FORCED));
        assert_eq!(worker.buffers.bytes_out(), 0);
    });
}
