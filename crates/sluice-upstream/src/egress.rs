//! Which addresses may be connected to, when somebody else chose them: a name server, a client, a header.
//!
//! Owns: the blocks of addresses that are not the public internet, and how configured blocks change that. Refuses to
//! know: where an address came from. Keeps: the address that is judged is the one that is connected to, never a name;
//! another way to write an address (IPv4-mapped, NAT64, 6to4) gets the verdict of what it leads to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use sluice_core::Cidr;

/// A policy. The most specific block that contains an address decides; of equal blocks, a configured one before a
/// built-in one, and a denied one before an allowed one. What no block contains is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EgressPolicy {
    allow: Vec<Cidr>,
    deny: Vec<Cidr>,
    /// Nothing but what is configured is denied.
    any: bool,
}

/// Why an address is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressDenial {
    /// The address.
    pub address: IpAddr,
    /// Why.
    pub cause: EgressCause,
}

/// The cause of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressCause {
    /// A configured block contains it.
    Configured(Cidr),
    /// It is special, as this word says.
    Special(&'static str),
    /// It is a listener of this process.
    OwnListener,
}

impl fmt::Display for EgressDenial {
    /// `10.0.0.1 is private`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match self.cause {
            EgressCause::Configured(block) => write!(f, "{address} is in {block}"),
            EgressCause::Special(word) => write!(f, "{address} is {word}"),
            EgressCause::OwnListener => write!(f, "{address} is a listener of this process"),
        }
    }
}

impl EgressPolicy {
    /// A policy that denies what is built in, with these exceptions.
    pub const fn new(allow: Vec<Cidr>, deny: Vec<Cidr>) -> Self {
        Self { allow, deny, any: false }
    }

    /// A policy that denies these blocks only.
    pub const fn all_but(deny: Vec<Cidr>) -> Self {
        Self { allow: Vec::new(), deny, any: true }
    }

    /// Judges an address; `is_own` tells whether a listener of this process has it. Such an address is denied unless
    /// a block allows it alone.
    ///
    /// # Errors
    /// Why it is denied.
    pub fn judge(
        &self,
        to: SocketAddr,
        is_own: impl Fn(SocketAddr) -> bool,
    ) -> Result<(), EgressDenial> {
        let mut address = to.ip().to_canonical();
        let denied = |cause| Err(EgressDenial { address: to.ip(), cause });
        let (mut decision, mut bits) = self.decide(address);
        if let Some((inner, form)) = embedded(address) {
            // Only a block that speaks of addresses of this form decides about them; a wider one does not open what is
            // behind it.
            let decides = match decision {
                BlockDecision::Denied(_) => true,
                BlockDecision::Allowed => bits >= form,
                BlockDecision::Open => false,
            };
            if !decides {
                address = inner.into();
                (decision, bits) = self.decide(address);
            }
        }
        match decision {
            BlockDecision::Denied(cause) => return denied(cause),
            BlockDecision::Allowed if bits == width(address) => return Ok(()),
            BlockDecision::Allowed | BlockDecision::Open => {}
        }
        if !self.any && is_own(SocketAddr::new(address, to.port())) {
            return denied(EgressCause::OwnListener);
        }
        Ok(())
    }

    /// The decision about an address, and the prefix length of the block that made it.
    fn decide(&self, address: IpAddr) -> (BlockDecision, u8) {
        let longest = |blocks: &[Cidr]| {
            blocks
                .iter()
                .filter(|block| block.holds(address))
                .max_by_key(|block| block.bits())
                .copied()
        };
        let special = SPECIAL_BLOCKS.iter().filter(|(block, _)| !self.any && block.holds(address));
        let special = special
            .map(|(block, word)| (BlockDecision::Denied(EgressCause::Special(word)), block.bits()));
        let allowed = longest(&self.allow).map(|block| (BlockDecision::Allowed, block.bits()));
        let denied = longest(&self.deny)
            .map(|block| (BlockDecision::Denied(EgressCause::Configured(block)), block.bits()));
        // Of equal ones, `max_by_key` returns the last.
        let all = special.chain(allowed).chain(denied);
        all.max_by_key(|(_, bits)| *bits).unwrap_or((BlockDecision::Open, 0))
    }
}

#[derive(Clone, Copy, Debug)]
enum BlockDecision {
    Allowed,
    Denied(EgressCause),
    /// No block contains the address.
    Open,
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The IPv4 address that an IPv6 address leads to: NAT64 (RFC 6052 §2.1) and 6to4 (RFC 3056 §2). IPv4-mapped ones are
/// IPv4 addresses already. With the prefix length of the form.
fn embedded(address: IpAddr) -> Option<(Ipv4Addr, u8)> {
    let IpAddr::V6(address) = address else { return None };
    let [a, b, c, d, e, f, high, low] = address.segments();
    match [a, b, c, d, e, f] {
        [0x64, 0xff9b, 0, 0, 0, 0] => Some((from_segments(high, low), 96)),
        [0x2002, high, low, ..] => Some((from_segments(high, low), 16)),
        _ => None,
    }
}

fn from_segments(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

/// Addresses that are not the public internet. Sources: the IANA registries of special-purpose addresses, RFC 6890.
const SPECIAL: &[(&str, &str)] = &[
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "private (carrier-grade NAT)"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("255.255.255.255/32", "broadcast"),
    // IPv4-compatible addresses, which are deprecated.
    ("::/96", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b:1::/48", "private (NAT64)"),
    ("100::/64", "discarded"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "for documentation"),
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "reserved"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
];

static SPECIAL_BLOCKS: LazyLock<Vec<(Cidr, &str)>> = LazyLock::new(|| {
    let parsed = SPECIAL.iter().map(|(block, word)| Some((Cidr::parse(block).ok()?, *word)));
    parsed.collect::<Option<_>>().expect("the blocks are well-formed")
});

#[cfg(test)]
mod tests;
