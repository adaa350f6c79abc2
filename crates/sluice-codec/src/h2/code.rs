//! The error codes of HTTP/2.
//!
//! Owns: their numbers and names, and what a violation of the protocol affects. Refuses to know: frames. Keeps: a code
//! that RFC 9113 does not define keeps its number.
//!
//! Source: RFC 9113 §5.4 and §7.

use std::fmt;

/// An error code, RFC 9113 §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H2Code(pub u32);

macro_rules! codes {
    ($($name:ident = $number:literal,)+) => {
        #[allow(missing_docs, reason = "each is the name of its code")]
        impl H2Code {
            $(pub const $name: Self = Self($number);)+

            /// Returns the name of the code; `None` if RFC 9113 does not define it.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)+
                    _ => None,
                }
            }
        }
    };
}

codes! {
    NO_ERROR = 0,
    PROTOCOL_ERROR = 1,
    INTERNAL_ERROR = 2,
    FLOW_CONTROL_ERROR = 3,
    SETTINGS_TIMEOUT = 4,
    STREAM_CLOSED = 5,
    FRAME_SIZE_ERROR = 6,
    REFUSED_STREAM = 7,
    CANCEL = 8,
    COMPRESSION_ERROR = 9,
    CONNECT_ERROR = 10,
    ENHANCE_YOUR_CALM = 11,
    INADEQUATE_SECURITY = 12,
    HTTP_1_1_REQUIRED = 13,
}

impl fmt::Display for H2Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name().unwrap_or("unknown"), self.0)
    }
}

/// A violation of the protocol by the peer: what it affects, the code that RFC 9113 names, and the detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum H2Violation {
    /// The connection ends with this code.
    Connection(H2Code, &'static str),
    /// The stream is reset with this code.
    Stream(u32, H2Code, &'static str),
    /// The connection ends because the worker has no buffer left, and much of them is held here.
    Buffers,
}

impl H2Violation {
    /// Returns the code that the peer is sent.
    pub const fn code(self) -> H2Code {
        match self {
            Self::Connection(code, _) | Self::Stream(_, code, _) => code,
            Self::Buffers => H2Code::ENHANCE_YOUR_CALM,
        }
    }

    /// A connection error of type PROTOCOL_ERROR.
    pub(crate) const fn protocol(detail: &'static str) -> Self {
        Self::Connection(H2Code::PROTOCOL_ERROR, detail)
    }
}
