//! The numbers of proxy-wasm.
//!
//! Owns: what a guest and its host call statuses, maps and buffers. Refuses to know: what they are used for. Keeps: a number that
//! means nothing is no kind.

/// What a function of the host returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok = 0,
    NotFound = 1,
    BadArgument = 2,
    ParseFailure = 4,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
    Unimplemented = 12,
}

impl Status {
    pub(crate) const fn number(self) -> i32 {
        self as i32
    }
}

/// A map of headers or trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapKind {
    /// Of the message; whether it is the response, and whether trailers are meant.
    Message { response: bool, trailers: bool },
    /// Of the response to a call; whether trailers are meant.
    Call { trailers: bool },
    /// Of a gRPC call: whether the metadata at the end is meant.
    Grpc { trailers: bool },
}

impl MapKind {
    pub(crate) const fn of(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::Message { response: false, trailers: false },
            1 => Self::Message { response: false, trailers: true },
            2 => Self::Message { response: true, trailers: false },
            3 => Self::Message { response: true, trailers: true },
            4 => Self::Grpc { trailers: false },
            5 => Self::Grpc { trailers: true },
            6 => Self::Call { trailers: false },
            7 => Self::Call { trailers: true },
            _ => return Err(Status::BadArgument),
        })
    }
}

/// A buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BufferKind {
    /// Of the message; whether it is the response.
    Body {
        response: bool,
    },
    /// The bytes of a connection at hand; whether they go to the client.
    Bytes {
        sent: bool,
    },
    CallBody,
    GrpcMessage,
    VmConfig,
    PluginConfig,
}

impl BufferKind {
    pub(crate) const fn of(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::Body { response: false },
            1 => Self::Body { response: true },
            2 => Self::Bytes { sent: false },
            3 => Self::Bytes { sent: true },
            4 => Self::CallBody,
            5 => Self::GrpcMessage,
            6 => Self::VmConfig,
            7 => Self::PluginConfig,
            8 => return Err(Status::NotFound),
            _ => return Err(Status::BadArgument),
        })
    }
}

/// The version of the interface that a module was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AbiVersion {
    V0_1,
    V0_2,
}

/// What a module exports to tell its version.
pub(crate) const VERSIONS: [(&str, AbiVersion); 3] = [
    ("proxy_abi_version_0_2_1", AbiVersion::V0_2),
    ("proxy_abi_version_0_2_0", AbiVersion::V0_2),
    ("proxy_abi_version_0_1_0", AbiVersion::V0_1),
];
