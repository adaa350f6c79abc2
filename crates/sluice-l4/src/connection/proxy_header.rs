//! Phase 1: the PROXY header.
//!
//! Owns: whether a client may and must send a header, and how long it has. Refuses to know: the format. Keeps: only a
//! trusted client changes the addresses of its connection; a header is consumed whole, everything behind it is given
//! back.

use sluice_core::Reason;
use sluice_core::connection::Peer;
use sluice_core::limits::Limit;
use sluice_io::{Conn, Stream};

use super::prefix::{Grown, Prefix};
use crate::listener::{ProxyAccept, ProxyPlan};
use crate::proxy_protocol::{self, Header};
use crate::reasons;

/// Reads the PROXY header, if the listener accepts one and the client sent one, and takes the addresses it states.
pub(super) async fn take_proxy_header(
    plan: &ProxyPlan,
    conn: &Conn,
    stream: &mut Stream,
) -> Result<(), Reason> {
    let trusted =
        conn.info.peer.ip().is_none_or(|ip| plan.trust.iter().any(|block| block.holds(ip)));
    let required = plan.accept == ProxyAccept::Required;
    let untrusted = || {
        if let Some(ip) = conn.info.peer.ip() {
            conn.info.note(format_args!("no block of `trust` contains {ip}"));
        }
        reasons::PROXY_UNTRUSTED
    };
    if required && !trusted {
        return Err(untrusted());
    }
    let by = conn.worker.now().after(plan.timeout);
    // Room for the longest header, and for what may come in the same segment.
    let mut prefix = Prefix::new(conn.worker.limits.size(Limit::InspectBytes));
    let mut header = Header::NeedMore;
    let reading = async {
        while header == Header::NeedMore {
            match prefix.grow(stream, conn).await? {
                Grown::Bytes => header = proxy_protocol::read(&prefix.bytes),
                Grown::End | Grown::Full => break,
            }
        }
        Ok::<(), Reason>(())
    };
    match conn.until(by, reading).await {
        Ok(done) => done?,
        // A silent client sends no header; the next phase judges it.
        Err(_) if prefix.bytes.is_empty() && !required => header = Header::Absent,
        Err(_) => {}
    }
    let malformed = |what: &str| {
        conn.info.note(what);
        reasons::PROXY_MALFORMED
    };
    let start = match header {
        Header::Present { .. } if !trusted => return Err(untrusted()),
        Header::Present { length, ends } => {
            if let Some((source, destination)) = ends {
                let ends = (Peer::Ip(source), Peer::Ip(destination));
                let _ = conn.info.proxied.set(Box::new(ends));
            }
            length
        }
        Header::Absent if required => return Err(reasons::PROXY_MISSING),
        Header::Absent => 0,
        Header::Malformed(what) => return Err(malformed(what)),
        Header::NeedMore if prefix.bytes.is_empty() && required => {
            return Err(reasons::PROXY_MISSING);
        }
        Header::NeedMore if prefix.bytes.is_empty() => 0,
        Header::NeedMore => return Err(malformed("the header is incomplete")),
    };
    prefix.give_back(stream, conn, start)
}
