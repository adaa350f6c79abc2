//! Addresses of listeners and endpoints, and address blocks.
//!
//! Owns: how each is written in the native form. Refuses to know: what listens there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::quoted;

impl Mapping<'_> {
    /// The address in an `Address`: whether it is one of UDP, and how it is written without a scheme for that.
    pub(super) fn address(&mut self, address: &ProtoMessage) -> Option<(bool, String)> {
        if let Some(pipe) = address.message("pipe") {
            if pipe.number("mode").unwrap_or(0) != 0 {
                self.unsupported(pipe, "mode", "only the socket of the admin pages has one");
            }
            return Some((false, self.pipe(pipe)?));
        }
        if address.has("envoy_internal_address") {
            self.unsupported_kind(address, "envoy_internal_address", "");
            return None;
        }
        self.socket_address(address.message("socket_address")?)
    }

    /// The address in a `Pipe`, without its mode.
    pub(super) fn pipe(&mut self, pipe: &ProtoMessage) -> Option<String> {
        let path = pipe.text("path")?.to_string();
        if path.starts_with('@') {
            self.unsupported(pipe, "path", "abstract sockets have no counterpart");
            return None;
        }
        // Relative to the working directory, as all paths in a file of Envoy are.
        let path = std::path::absolute(&path).ok()?;
        Some(format!("unix://{}", path.display()))
    }

    /// The address in a `SocketAddress`.
    pub(super) fn socket_address(&mut self, socket: &ProtoMessage) -> Option<(bool, String)> {
        let udp = &*socket.choice("protocol") == "UDP";
        let host = socket.text("address")?.to_string();
        if socket.has("named_port") {
            self.unsupported(socket, "named_port", "write `port_value`");
            return None;
        }
        let port = socket.number("port_value").unwrap_or(0);
        self.only_false(socket, "ipv4_compat", "listen on 0.0.0.0 as well");
        let text =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Some((udp, text))
    }

    /// Address blocks.
    pub(super) fn blocks(&mut self, of: &ProtoMessage, field: &str) -> Vec<Node> {
        of.messages(field).filter_map(|range| self.block(range)).collect()
    }

    /// An address block, from a `CidrRange`. Without a length it is of no bits, which covers every address.
    pub(super) fn block(&mut self, range: &ProtoMessage) -> Option<Node> {
        let prefix = range.text("address_prefix")?;
        let length = range.number("prefix_len").unwrap_or(0);
        // The native form wants the bits behind the prefix to be zero.
        let text = match prefix.parse() {
            Ok(IpAddr::V4(ip)) if length <= 32 => {
                let kept =
                    if length == 0 { 0 } else { u32::from(ip) & (u32::MAX << (32 - length)) };
                format!("{}/{length}", Ipv4Addr::from(kept))
            }
            Ok(IpAddr::V6(ip)) if length <= 128 => {
                let kept =
                    if length == 0 { 0 } else { u128::from(ip) & (u128::MAX << (128 - length)) };
                format!("{}/{length}", Ipv6Addr::from(kept))
            }
            _ => {
                let text = format!("`{prefix}` with {length} bits is not an address block");
                self.diags.error("bad-value", range.span, &*range.path, text);
                return None;
            }
        };
        Some(quoted(&text, range.span))
    }
}
