//! How those that hold memory share the account.
//!
//! Owns: which part of a limit each class of holders leaves to the others. Refuses to know: who holds what. Keeps: the more a
//! client can have of something, the earlier it gets no more of it, so that a client with a single request is served
//! when others have filled the account with theirs.

use std::ops::Div;

/// What bytes are held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldingClass {
    /// A buffer of the smallest class for headers, without which no request can be read, or refused: it may use
    /// everything.
    Headers,
    /// The only request of a connection: a sixteenth is left to the buffers above.
    OnlyRequest,
    /// Data in a buffer of the smallest class: as much is left.
    SmallData,
    /// Data on its way: an eighth is left to those above.
    Data,
    /// A request beside others on its connection: a quarter is left to those above.
    FurtherRequest,
}

impl HoldingClass {
    /// What of `limit` this class leaves to others.
    pub(crate) fn leaves<T: Div<Output = T> + From<u8>>(self, limit: T) -> T {
        match self {
            Self::Headers => T::from(0),
            Self::OnlyRequest | Self::SmallData => limit / T::from(16),
            Self::Data => limit / T::from(8),
            Self::FurtherRequest => limit / T::from(4),
        }
    }
}
