//! A trace as a tree: a message of Envoy's `envoy.data.tap.v3`, with the numbers and names of its fields.
//!
//! Owns: the tree, and the parts that all traces have in common. Refuses to know: how it is written. Keeps: a field is there if
//! Envoy's JSON shows it, also with the value that it has by default.

use std::net::SocketAddr;
use std::time::Duration;

use sluice_core::connection::Peer;

/// A value in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceValue {
    /// A message.
    Message(Vec<TraceField>),
    /// A repeated message.
    List(Vec<Self>),
    /// A text, which may not be one.
    Text(Vec<u8>),
    /// The bytes of a body, in the form that the format has for them; whether there were more.
    Body(Vec<u8>, bool),
    /// A truth value.
    Bool(bool),
    /// A number of 64 bits, which JSON writes as a text.
    Long(u64),
    /// A number of 32 bits.
    Number(u32),
    /// A word, with its number.
    Word(&'static str, u32),
    /// A time since the Unix epoch.
    Time(Duration),
}

/// A field of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceField {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: TraceValue,
}

impl TraceValue {
    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        const ENTRY: usize = 64;
        match self {
            Self::Message(fields) => fields.iter().map(|field| ENTRY + field.value.weight()).sum(),
            Self::List(items) => items.iter().map(|item| ENTRY + item.weight()).sum(),
            Self::Text(bytes) | Self::Body(bytes, _) => bytes.len(),
            _ => 0,
        }
    }
}

/// A message with these fields.
pub fn message<const N: usize>(fields: [(u32, &'static str, TraceValue); N]) -> TraceValue {
    let field = |(number, name, value)| TraceField { number, name, value };
    TraceValue::Message(fields.into_iter().map(field).collect())
}

/// A body, or a piece of it.
pub const fn body_of(bytes: Vec<u8>, truncated: bool) -> TraceValue {
    TraceValue::Body(bytes, truncated)
}

/// The two ends of a connection; `datagrams` if it is one of QUIC.
pub fn address_pair(local: Option<Peer>, remote: Option<Peer>, datagrams: bool) -> TraceValue {
    let of = |number, name, peer: Option<Peer>| {
        peer.map(|peer| TraceField { number, name, value: address(peer, datagrams) })
    };
    let ends = [of(1, "local_address", local), of(2, "remote_address", remote)];
    TraceValue::Message(ends.into_iter().flatten().collect())
}

fn address(peer: Peer, datagrams: bool) -> TraceValue {
    match peer.socket() {
        Some(socket) => message([(1, "socket_address", socket_address(socket, datagrams))]),
        None => {
            let path = TraceValue::Text(Vec::new());
            let pipe = message([(1, "path", path), (2, "mode", TraceValue::Number(0))]);
            message([(2, "pipe", pipe)])
        }
    }
}

fn socket_address(socket: SocketAddr, datagrams: bool) -> TraceValue {
    let protocol = if datagrams { ("UDP", 1) } else { ("TCP", 0) };
    message([
        (1, "protocol", TraceValue::Word(protocol.0, protocol.1)),
        (2, "address", TraceValue::Text(socket.ip().to_canonical().to_string().into_bytes())),
        (3, "port_value", TraceValue::Number(socket.port().into())),
        (5, "resolver_name", TraceValue::Text(Vec::new())),
        (6, "ipv4_compat", TraceValue::Bool(false)),
        (7, "network_namespace_filepath", TraceValue::Text(Vec::new())),
    ])
}
