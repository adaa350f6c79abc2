//! What happens for an instance outside of its calls.
//!
//! Owns: the tasks of a worker that wait for it: for calls of clusters, periods and queues. Refuses to know: guests. Keeps: a task
//! ends with the instance or context that it was started for.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use sluice_codec::Head;
use sluice_codec::grpc::GrpcCode;
use sluice_core::LocalFuture;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;
use sluice_l7::{GrpcCallError, GrpcConversation, GrpcStream, RawMessage, reasons};

use crate::grpc_link::GrpcLink;
use crate::pairs::FieldPair;
use crate::shared::SharedQueue;
use crate::state::GuestEvents;
use crate::stream::{Arrival, ArrivedCall, GuestCallEnd, StreamCell};

/// Waits for a call of a context; it is dropped when the context ends.
pub(crate) fn call(
    worker: &WorkerCx,
    events: &Weak<dyn GuestEvents>,
    cell: &Rc<StreamCell>,
    token: u32,
    calling: LocalFuture<GuestCallEnd>,
) {
    let listener = CallListener::new(events, cell, token, None);
    let calling = async move { Arrival::Http(Box::new(calling.await)) };
    worker.spawn(async move {
        let told = listener.clone();
        let arrived = async move { told.tell(calling.await) };
        listener.run(arrived).await;
    });
}

/// As [`call`], for a gRPC call with one message in each direction.
pub(crate) fn grpc_call(
    worker: &WorkerCx,
    events: &Weak<dyn GuestEvents>,
    cell: &Rc<StreamCell>,
    token: u32,
    link: &Rc<GrpcLink>,
    calling: LocalFuture<Result<RawMessage, GrpcCallError>>,
) {
    let listener = CallListener::new(events, cell, token, Some(link));
    worker.spawn(async move {
        let told = listener.clone();
        let arrived = async move {
            told.tell(match calling.await {
                Ok(RawMessage(message)) => Arrival::GrpcMessage(message),
                Err(error) => end_of(&error),
            });
        };
        listener.run(arrived).await;
    });
}

/// As [`call`], for a gRPC call with several messages.
pub(crate) fn grpc_stream(
    worker: &WorkerCx,
    events: &Weak<dyn GuestEvents>,
    cell: &Rc<StreamCell>,
    token: u32,
    link: &Rc<GrpcLink>,
    opening: LocalFuture<Result<GuestGrpcStream, GrpcCallError>>,
) {
    let listener = CallListener::new(events, cell, token, Some(link));
    let (cell, link) = (Rc::clone(cell), Rc::clone(link));
    worker.spawn(async move {
        let told = listener.clone();
        let conversation = async move {
            let mut stream = match opening.await {
                Ok(stream) => stream,
                Err(error) => return told.tell(end_of(&error)),
            };
            let mut with = GuestConversation { cell, link };
            let mut has_head = false;
            loop {
                let next = stream.converse(&mut with).await;
                if let Some(head) = stream.head().filter(|_| !has_head) {
                    has_head = true;
                    told.tell(Arrival::GrpcHeaders(pairs_of(head)));
                }
                let end = match next {
                    Ok(Some(RawMessage(message))) => {
                        told.tell(Arrival::GrpcMessage(message));
                        continue;
                    }
                    Ok(None) => Arrival::GrpcEnd(0, String::new()),
                    Err(error) => end_of(&error),
                };
                if let Some(trailers) = stream.trailers() {
                    told.tell(Arrival::GrpcTrailers(pairs_of(trailers)));
                }
                return told.tell(end);
            }
        };
        listener.run(conversation).await;
    });
}

/// The stream of a guest.
pub(crate) type GuestGrpcStream = GrpcStream<RawMessage, RawMessage>;

/// What is sent and taken in a call of a guest.
struct GuestConversation {
    cell: Rc<StreamCell>,
    link: Rc<GrpcLink>,
}

impl GrpcConversation<RawMessage> for GuestConversation {
    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<Option<RawMessage>> {
        self.link.poll_outgoing(cx)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.cell.has_room(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Who is told what arrives of a call.
#[derive(Clone, Debug)]
struct CallListener {
    events: Weak<dyn GuestEvents>,
    cell: Rc<StreamCell>,
    token: u32,
    link: Option<Rc<GrpcLink>>,
    /// Whether it counts as one of the calls of its context.
    in_flight: Rc<Cell<bool>>,
}

impl CallListener {
    /// Of a call that begins.
    fn new(
        events: &Weak<dyn GuestEvents>,
        cell: &Rc<StreamCell>,
        token: u32,
        link: Option<&Rc<GrpcLink>>,
    ) -> Self {
        cell.calls.set(cell.calls.get() + 1);
        let (events, cell, link) = (Weak::clone(events), Rc::clone(cell), link.cloned());
        Self { events, cell, token, link, in_flight: Rc::new(Cell::new(true)) }
    }

    fn is_over(&self) -> bool {
        self.cell.is_ended() || self.link.as_ref().is_some_and(|link| link.is_cancelled())
    }

    /// Tells it to the hook that waits, or to the guest.
    fn tell(&self, what: Arrival) {
        if self.is_over() {
            return;
        }
        let more_follows = match what {
            Arrival::GrpcHeaders(_) | Arrival::GrpcTrailers(_) => true,
            Arrival::GrpcMessage(_) => self.is_stream(),
            Arrival::Http(_) | Arrival::GrpcEnd(..) => false,
        };
        if !more_follows {
            // It is not in flight any more when the guest learns of its end.
            self.ended();
        }
        if let Some(arrived) = self.cell.arrive(ArrivedCall { token: self.token, what })
            && let Some(events) = self.events.upgrade()
        {
            events.arrived(self.cell.id, arrived);
        }
    }

    fn is_stream(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_stream)
    }

    fn ended(&self) {
        if self.in_flight.replace(false) {
            self.cell.calls.set(self.cell.calls.get().saturating_sub(1));
        }
    }

    /// Runs a call until it has ended, its context has, or it is cancelled.
    async fn run(self, call: impl Future<Output = ()>) {
        let mut call = pin!(call);
        poll_fn(|cx| {
            if self.is_over() {
                return Poll::Ready(());
            }
            self.cell.wake_at_end(cx.waker());
            if let Some(link) = &self.link {
                link.wake_with(cx.waker());
            }
            call.as_mut().poll(cx)
        })
        .await;
        self.ended();
    }
}

fn pairs_of(head: &Head) -> Vec<FieldPair> {
    head.fields().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect()
}

/// The status that gRPC has for an error.
fn end_of(error: &GrpcCallError) -> Arrival {
    let code = match error {
        GrpcCallError::Status(status) => {
            return Arrival::GrpcEnd(status.code.number(), status.text.to_string());
        }
        GrpcCallError::Call(error) if error.why == reasons::SIDE_CALL_TIMEOUT => {
            GrpcCode::DeadlineExceeded
        }
        GrpcCallError::Call(_) => GrpcCode::Unavailable,
        GrpcCallError::Malformed(_) => GrpcCode::Internal,
    };
    Arrival::GrpcEnd(code.number(), error.to_string())
}

/// Calls a root context every `period`, which it may change or end.
pub(crate) fn tick(
    worker: &Rc<WorkerCx>,
    events: &Weak<dyn GuestEvents>,
    root: u32,
    period: Duration,
) {
    let (timers, events, clock) =
        (Rc::clone(&worker.timers), Weak::clone(events), worker.clock.clone());
    worker.spawn(async move {
        let mut period = period;
        loop {
            Timer::new(&timers).passed(clock.now().after(period)).await;
            match events.upgrade().and_then(|events| events.ticked(root)) {
                Some(next) => period = next,
                None => break,
            }
        }
    });
}

/// Tells a root context each time that something was put into a queue.
pub(crate) fn queue(
    worker: &WorkerCx,
    events: &Weak<dyn GuestEvents>,
    root: u32,
    queue: &std::sync::Arc<SharedQueue>,
) {
    let (events, queue) = (Weak::clone(events), std::sync::Arc::clone(queue));
    worker.spawn(async move {
        let mut seen = queue.filled();
        loop {
            seen = poll_fn(|cx| queue.poll_filled(seen, cx.waker())).await;
            let there = events.upgrade().is_some_and(|events| events.queue_filled(root, queue.id));
            if !there {
                break;
            }
        }
    });
}
