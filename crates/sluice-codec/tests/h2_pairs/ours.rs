//! Our side: the machine, with a driver over a pipe and users that are polled only when they are woken.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use sluice_codec::h1::Role;
use sluice_codec::h2::machine::{ConnectionEnd, H2Machine, MachineEvent};
use sluice_codec::h2::supply::H2Supply;
use sluice_codec::h2::{H2Code, H2Options};
use sluice_codec::{Body, Frame, Head, HttpError};
use sluice_core::Moment;
use sluice_io::buffers::BufPool;
use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};

use crate::plan::{Abort, Exchange, Fields, Message, Plan, check_piece, piece};

const NOW: Moment = Moment::from_micros(0);

/// Lets the time of streams that linger pass; returns whether there were any.
fn expire_lingering(machine: &mut H2Machine) -> bool {
    let Some(due) = machine.expire_lingering(NOW) else { return false };
    machine.expire_lingering(due);
    true
}

/// A connection.
pub(crate) struct Ours {
    machine: RefCell<H2Machine>,
    driver: RefCell<Option<Waker>>,
    /// Woken when there is an event, or the end.
    acceptor: RefCell<Option<Waker>>,
    buffers: BufPool,
}

impl Ours {
    pub(crate) fn new(role: Role, seed: u64) -> Rc<Self> {
        let mut random = fastrand::Rng::with_seed(seed ^ 0xcafe);
        let options = H2Options {
            streams_max: random.u32(1..50),
            stream_window: random.u32(300..200_000),
            connection_window: random.u32(65_535..400_000),
            head_bytes: 1 << 20,
            ..H2Options::default()
        };
        let buffers = BufPool::new(64 << 20);
        let supply = H2Supply::new(buffers.clone());
        Rc::new(Self {
            machine: RefCell::new(H2Machine::new(role, &options, supply, NOW)),
            driver: RefCell::default(),
            acceptor: RefCell::default(),
            buffers,
        })
    }

    /// Uses the machine, and wakes the driver.
    pub(crate) fn with<R>(&self, using: impl FnOnce(&mut H2Machine) -> R) -> R {
        let result = using(&mut self.machine.borrow_mut());
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
        result
    }

    /// Carries bytes between the machine and the pipe until the connection ends.
    pub(crate) async fn drive(self: Rc<Self>, mut pipe: DuplexStream, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed ^ 0xd00d);
        let mut unsent = Vec::new();
        poll_fn(|cx| self.poll_drive(cx, &mut pipe, &mut unsent, &mut random)).await;
        let end = self.machine.borrow().end().cloned();
        assert!(matches!(end, Some(ConnectionEnd::Closed | ConnectionEnd::Done)), "{end:?}");
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
    }

    fn poll_drive(
        &self,
        cx: &mut Context<'_>,
        pipe: &mut DuplexStream,
        unsent: &mut Vec<u8>,
        random: &mut fastrand::Rng,
    ) -> Poll<()> {
        loop {
            *self.driver.borrow_mut() = Some(cx.waker().clone());
            let mut machine = self.machine.borrow_mut();
            let mut moved = false;
            if unsent.is_empty() {
                machine.end_if_drained();
                let direct_min = *random.choice(&[1, 100, 9000, usize::MAX]).unwrap();
                let pieces = machine.fill(random.usize(1..70_000), direct_min);
                unsent.extend(machine.parts(&pieces).flatten());
                machine.sent(&pieces);
            }
            if !unsent.is_empty() {
                let cut = random.usize(1..=unsent.len());
                if let Poll::Ready(written) = Pin::new(&mut *pipe).poll_write(cx, &unsent[..cut]) {
                    let Ok(written) = written else {
                        machine.closed();
                        return Poll::Ready(());
                    };
                    unsent.drain(..written);
                    moved = true;
                }
            } else if machine.end().is_some() {
                let _ = Pin::new(&mut *pipe).poll_shutdown(cx);
                return Poll::Ready(());
            }
            let mut space = vec![0; random.usize(1..20_000)];
            let mut buf = ReadBuf::new(&mut space);
            if machine.may_read()
                && let Poll::Ready(read) = Pin::new(&mut *pipe).poll_read(cx, &mut buf)
            {
                moved = true;
                match read {
                    Ok(()) if !buf.filled().is_empty() => machine.feed(buf.filled(), NOW),
                    _ => machine.closed(),
                }
                if let Some(acceptor) = self.acceptor.take() {
                    acceptor.wake();
                }
            }
            if !moved && !expire_lingering(&mut machine) {
                return Poll::Pending;
            }
        }
    }

    /// Checks that nothing is held when everything has ended.
    pub(crate) fn assert_nothing_left(&self) {
        let machine = self.machine.borrow();
        assert_eq!((machine.open_streams(), machine.bytes_waiting()), (0, 0));
        assert_eq!(self.buffers.bytes_out(), 0);
    }

    // --- the server ---

    /// Answers every request as planned, until the connection ends.
    pub(crate) async fn serve(self: Rc<Self>, plan: Rc<Plan>) {
        let mut tasks = Vec::new();
        while let Some((key, head)) = poll_fn(|cx| self.poll_accept(cx)).await {
            let (this, plan) = (self.clone(), plan.clone());
            tasks.push(tokio::task::spawn_local(async move {
                let exchange = plan.of_path(head.path());
                check_fields(&head, &exchange.request.head_fields());
                let _ = this.answer(key, exchange).await;
                this.with(|machine| machine.release(key));
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }

    fn poll_accept(&self, cx: &Context<'_>) -> Poll<Option<(usize, Box<Head>)>> {
        let mut machine = self.machine.borrow_mut();
        match machine.poll_event() {
            Some(MachineEvent::Request(key, head)) => Poll::Ready(Some((key, head))),
            Some(MachineEvent::Refused(error)) => panic!("{error}"),
            None if machine.end().is_some() => Poll::Ready(None),
            None => {
                *self.acceptor.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    async fn answer(&self, key: usize, exchange: &Exchange) -> Result<(), HttpError> {
        let respond = async {
            for _ in 0..exchange.informational {
                let mut head = Head::response(103);
                head.append(b"link", b"</x>");
                self.with(|machine| machine.send_head(key, &head, false))?;
            }
            let mut head = Head::response(exchange.status);
            add_fields(&mut head, &exchange.response.head_fields());
            self.with(|machine| machine.send_head(key, &head, false))?;
            self.send_body(key, exchange, &exchange.response).await
        };
        let limit = match exchange.abort {
            Some(Abort::Server(after)) => Some(after),
            _ => None,
        };
        let (sent, received) =
            tokio::join!(respond, self.recv_body(key, exchange, &exchange.request, limit));
        sent.and(received)
    }

    // --- the client ---

    /// Sends every request as planned, as soon as the peer allows.
    pub(crate) async fn request_all(self: Rc<Self>, plan: Rc<Plan>) {
        // A request beyond the limit is refused and may be repeated, but for the trailers of one that was refused the
        // crate `h2` ends the connection. So wait until the server has said how many it allows.
        poll_fn(|cx| self.poll_greeted(cx)).await;
        let mut tasks = Vec::new();
        for number in 0..plan.exchanges.len() {
            let (this, plan) = (self.clone(), plan.clone());
            tasks.push(tokio::task::spawn_local(async move {
                this.request(&plan.exchanges[number]).await;
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }

    fn poll_greeted(&self, cx: &Context<'_>) -> Poll<()> {
        if self.machine.borrow().is_greeted() {
            return Poll::Ready(());
        }
        *self.acceptor.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    async fn request(&self, exchange: &Exchange) {
        let mut head = Head::request("POST", "http", "a.test", &exchange.path);
        add_fields(&mut head, &exchange.request.head_fields());
        let ends = exchange.request_ends();
        let open = |cx: &mut Context<'_>| {
            self.with(|machine| {
                ready!(machine.poll_open(&head, cx)).unwrap();
                Poll::Ready(machine.open(&head, ends).unwrap())
            })
        };
        let key = poll_fn(open).await;
        let send = self.send_body(key, exchange, &exchange.request);
        let (sent, received) = tokio::join!(send, self.recv_response(key, exchange));
        self.with(|machine| machine.release(key));
        let result = received.and(sent);
        assert!(result.is_ok() || exchange.abort.is_some(), "{result:?}");
    }

    async fn recv_response(&self, key: usize, exchange: &Exchange) -> Result<(), HttpError> {
        let mut head = Head::default();
        let mut informational = 0;
        loop {
            poll_fn(|cx| self.with(|machine| machine.poll_recv_head(key, cx, &mut head))).await?;
            if head.status() >= 200 {
                break;
            }
            assert_eq!(head.status(), 103);
            informational += 1;
        }
        assert_eq!((informational, head.status()), (exchange.informational, exchange.status));
        check_fields(&head, &exchange.response.head_fields());
        let limit = match exchange.abort {
            Some(Abort::Client(after)) => Some(after),
            _ => None,
        };
        self.recv_body(key, exchange, &exchange.response, limit).await
    }

    // --- both ---

    async fn send_body(
        &self,
        key: usize,
        exchange: &Exchange,
        message: &Message,
    ) -> Result<(), HttpError> {
        let mut random = fastrand::Rng::with_seed(exchange.number as u64);
        let mut from = 0;
        loop {
            poll_fn(|cx| self.with(|machine| machine.poll_flushed(key, cx))).await?;
            let is_sent = self.with(|machine| machine.is_sent(key));
            if is_sent {
                return Ok(());
            }
            let len = random.usize(1..60_000).min(message.body - from);
            if len == 0 {
                let trailers = message.trailers.as_ref().map(|fields| {
                    let mut head = Head::default();
                    add_fields(&mut head, fields);
                    head
                });
                self.with(|machine| machine.send_end(key, trailers.as_ref()))?;
                continue;
            }
            let body = match random.bool() {
                true => Body::Shared(piece(exchange.number, from, len)),
                false => {
                    let bytes = piece(exchange.number, from, len);
                    Body::Pooled(self.buffers.copy(&bytes).unwrap())
                }
            };
            from += len;
            let last = from == message.body && message.trailers.is_none();
            self.with(|machine| machine.send_data(key, body, last))?;
        }
    }

    /// Receives a body; gives up after `limit` bytes.
    async fn recv_body(
        &self,
        key: usize,
        exchange: &Exchange,
        message: &Message,
        limit: Option<usize>,
    ) -> Result<(), HttpError> {
        let mut from = 0;
        loop {
            if limit.is_some_and(|limit| from >= limit) {
                self.with(|machine| machine.reset(key, H2Code::CANCEL));
                return Ok(());
            }
            match poll_fn(|cx| self.with(|machine| machine.poll_recv(key, cx))).await? {
                Frame::Data { body, last } => {
                    from = check_piece(exchange.number, from, &body);
                    if last {
                        assert!(message.trailers.is_none());
                        break;
                    }
                }
                Frame::Trailers(trailers) => {
                    check_fields(&trailers, message.trailers.as_ref().unwrap());
                    break;
                }
                Frame::End => break,
            }
        }
        assert_eq!(from, message.body, "exchange {}", exchange.number);
        Ok(())
    }
}

fn add_fields(head: &mut Head, fields: &Fields) {
    fields.iter().for_each(|(name, value)| head.append(name.as_bytes(), value.as_bytes()));
}

#[track_caller]
fn check_fields(head: &Head, expected: &Fields) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut found: Fields = head.fields().map(|(n, v)| (text(n), text(v))).collect();
    found.sort_by_key(|(name, _)| name.clone());
    let mut expected = expected.clone();
    expected.sort_by_key(|(name, _)| name.clone());
    assert_eq!(found, expected);
}
