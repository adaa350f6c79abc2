//! A connection whose client does not speak HTTP, as one request.
//!
//! Owns: the request, and the end of the connection. Refuses to know: where the request goes, and what the bytes are.
//! Keeps: the client gets the bytes of the tunnel and nothing else; without a tunnel its connection is closed.

use std::rc::Rc;

use sluice_codec::HttpStream;
use sluice_codec::h1::H1Stream;
use sluice_core::Reason;
use sluice_core::reason::end;
use sluice_io::Stream;

use super::HttpHandler;
use super::http1::{charge_whole, count_bytes, lingering_close};
use crate::connection_manager::DownstreamConn;
use crate::exchange::Exchange;
use crate::plan::TunnelRequest;

/// Serves a connection to its end.
pub(super) async fn serve_tunnel(
    handler: Rc<HttpHandler>,
    downstream: Rc<DownstreamConn>,
    stream: Stream,
) -> Reason {
    let manager = &handler.manager;
    let mut request = manager.shared.head_pool.take();
    if let Some(TunnelRequest { host, post }) = &manager.plan.options.tunnel {
        let (method, path) = match post {
            Some(path) => ("POST", path.as_str()),
            None => ("CONNECT", ""),
        };
        request.set_method(method.as_bytes());
        request.set_authority(host.as_bytes());
        request.set_scheme(b"http");
        request.set_path(path.as_bytes());
    }
    let opened = H1Stream::headless(stream, Rc::clone(&manager.h1));
    let exchange = Exchange {
        manager: Rc::clone(manager),
        downstream: Rc::clone(&downstream),
        stream: HttpStream::H1(opened),
        timer: None,
        charge: charge_whole(&manager.worker, &request),
        request,
    };
    let HttpStream::H1(mut after) = handler.slots.run(exchange).await else {
        unreachable!("an exchange gives back the stream that it was given")
    };
    count_bytes(&downstream.conn, &mut after);
    lingering_close(&handler, &downstream.conn, &mut after).await;
    end::DONE
}
