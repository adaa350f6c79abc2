//! `HttpUri`: where something is fetched from.
//!
//! Owns: the cluster, host and path that a request goes to, and how long it may take. Refuses to know: what is fetched.
//! Keeps: a URI without a scheme is read like one with a scheme; the cluster, not the URI, decides about TLS.

use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::NativeMap;

impl Mapping<'_> {
    /// Adds `cluster`, `host`, `path` and `timeout`; `None` if the cluster or the URI is missing.
    pub(super) fn http_uri(&mut self, of: &ProtoMessage, native: &mut NativeMap) -> Option<()> {
        let cluster = self.cluster(of.text("cluster")?, of, "cluster");
        native.text("cluster", &cluster, of.place("cluster"));
        let uri = of.text("uri")?;
        let rest = uri.split_once("://").map_or(&**uri, |(_, rest)| rest);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        native.text("host", host, of.place("uri"));
        native.text("path", &format!("/{path}"), of.place("uri"));
        if let Some(timeout) = self.duration(of, "timeout", Zero::Refused) {
            native.set("timeout", timeout);
        }
        Some(())
    }
}
