//! Which sessions of a chain may begin with early data (0-RTT).
//!
//! Owns: the identity of what clients were granted. Refuses to know: TLS itself. Keeps: early data only reaches HTTP, which
//! tells requests that may be replays from others.

use sluice_core::{Diags, Path};
use sluice_tls::EarlySessions;

use crate::sections::{Chain, Listener, Quic};

/// Maximum number of early-data sessions of a chain: each takes about 1 KiB, and a look-up takes longer the more there
/// are.
const EARLY_SESSIONS_MAX: u32 = 65_536;

/// The sessions of a chain that may send early data. Their key (`of`) contains everything that clients were granted.
pub(super) fn early_sessions(
    listener: &Listener,
    chain: &Chain,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<EarlySessions> {
    let tls = &chain.tls.as_ref()?.0;
    let count = &tls.early_data_sessions;
    if count.value == 0 {
        return None;
    }
    let refused = if count.value > EARLY_SESSIONS_MAX {
        let problem = format!("`early_data_sessions` must not exceed {EARLY_SESSIONS_MAX}");
        Some(("bad-value", problem, "each takes about 1 KiB"))
    } else if chain.http.is_none() {
        let problem =
            "early data can be sent again by an attacker, and only HTTP can tell it apart";
        Some(("useless-setting", problem.into(), "remove it, or serve `http` on this chain"))
    } else if tls.client_auth.is_some() {
        let problem = "a client that must show a certificate cannot be served before it has";
        Some(("conflict", problem.into(), "remove `early_data_sessions` or `client_auth`"))
    } else {
        None
    };
    if let Some((code, problem, help)) = refused {
        diags.error(code, count.span, at.key("early_data_sessions"), problem).help(help);
        return None;
    }
    // A session must not be resumed under limits other than those it was granted.
    let granted = listener.quic().map(|quic| granted_by_quic(&quic.0));
    let head = chain.http.as_ref().map(|http| http.0.head_bytes);
    let certificates: Vec<_> =
        tls.certificates.iter().map(|pair| (&*pair.cert, pair.key.as_deref())).collect();
    let (listener, chain) = (&listener.name.value, &chain.name);
    let of = format!("{listener} {chain:?} {certificates:?} {granted:?} {head:?}");
    Some(EarlySessions { count: count.value, of })
}

/// What a client of QUIC is granted, and acts on when it returns (RFC 9000 section 7.4.1).
fn granted_by_quic(quic: &Quic) -> impl std::fmt::Debug {
    // Fields are listed by name, so that a new one cannot be forgotten.
    let Quic {
        enabled: _,
        idle_timeout,
        retry_above: _,
        streams,
        resets: _,
        stream_window,
        connection_window,
        congestion: _,
        qlog: _,
    } = quic;
    (*idle_timeout, *streams, stream_window, connection_window)
}
