//! Connections to the admin address.
//!
//! Owns: their number and time limits. Refuses to know: pages.
//! Keeps: a client that does not read loses its connection; the readiness probe always gets a connection.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{future::Future as _, io};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use crate::{AdminPlan, AdminSocket, AdminSource, pages};

/// How long a client may take to send the request headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections beyond `admin_connections` that may request `/ready`; at the bound the oldest is closed.
const PROBES: usize = 16;

/// Serves the pages forever.
pub async fn serve(socket: AdminSocket, source: Rc<dyn AdminSource>, plan: AdminPlan) {
    let places = Arc::new(Semaphore::new(plan.connections));
    let plan = Rc::new(plan);
    let mut probes: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted: io::Result<Box<dyn Socket>> = match &socket {
            AdminSocket::Tcp(tcp) => tcp.accept().await.map(|(stream, _)| Box::new(stream) as _),
            AdminSocket::Unix(unix) => unix.accept().await.map(|(stream, _)| Box::new(stream) as _),
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections on the admin address");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let permit = Arc::clone(&places).try_acquire_owned().ok();
        let probe = permit.is_none();
        let connection = Connection { source: Rc::clone(&source), plan: Rc::clone(&plan), permit };
        let task = tokio::task::spawn_local(connection.serve(stream));
        if probe {
            source.limit_reached();
            probes.retain(|task| !task.is_finished());
            if probes.len() == PROBES
                && let Some(oldest) = probes.pop_front()
            {
                oldest.abort();
            }
            probes.push_back(task);
        }
    }
}

/// A client stream.
trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// A connection, with its permit to request any page. Without one it may only request `/ready`.
struct Connection {
    source: Rc<dyn AdminSource>,
    plan: Rc<AdminPlan>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    async fn serve(self, stream: Box<dyn Socket>) {
        let Self { source, plan, permit } = self;
        let whole = permit.is_some();
        let stream = BoundedStream { stream, limit: plan.answer_timeout, due: None };
        let service = service_fn(move |request| {
            let (source, plan) = (Rc::clone(&source), Rc::clone(&plan));
            async move { Ok::<_, Infallible>(pages::answer(&request, &*source, &plan, whole).await) }
        });
        // A client that disconnects mid-request is not worth reporting.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(whole)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        drop(permit);
    }
}

/// A stream on which a response must be read within a time limit, from the first blocked write to the last.
struct BoundedStream<S> {
    stream: S,
    limit: Duration,
    due: Option<Pin<Box<Sleep>>>,
}

impl<S> BoundedStream<S> {
    /// Passes on the result of a write; a blocked write fails once the response has taken too long.
    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() {
            let limit = self.limit;
            let due = self.due.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
            if due.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bound(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has written its whole buffer: the response has been sent.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.due = None;
        }
        self.bound(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
