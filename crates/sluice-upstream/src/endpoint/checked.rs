//! Where an endpoint is checked.
//!
//! Owns: the parts of its address that are replaced for checks. Refuses to know: what is checked. Keeps: what a single
//! endpoint says goes before what its cluster says.

use std::net::{IpAddr, SocketAddr};

use super::Target;

/// What differs in the checks of one endpoint from those of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointCheck {
    /// Another IP address or port.
    pub connect_to: ConnectTo,
    /// The host in the requests of checks.
    pub host: Option<String>,
}

/// The parts of an endpoint's address that are replaced for checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnectTo {
    /// Another IP address.
    pub ip: Option<IpAddr>,
    /// Another port.
    pub port: Option<u16>,
}

impl ConnectTo {
    /// The parts of `self`, and those of `other` where it has none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { ip: self.ip.or(other.ip), port: self.port.or(other.port) }
    }

    /// Where the endpoint at `target` is checked. A unix socket has no parts to replace.
    pub fn target(self, target: &Target) -> Target {
        match target {
            Target::Ip(address) => Target::Ip(SocketAddr::new(
                self.ip.unwrap_or_else(|| address.ip()),
                self.port.unwrap_or_else(|| address.port()),
            )),
            Target::Unix(path) => Target::Unix(path.clone()),
        }
    }
}
