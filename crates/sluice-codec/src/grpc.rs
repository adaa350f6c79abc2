//! gRPC over HTTP: request headers, messages in frames, statuses, timeouts.
//!
//! Owns: what gRPC adds to HTTP. Refuses to know: sockets, the time, and what messages contain. Keeps: nothing that a
//! peer sends is trusted: an unknown status is UNKNOWN, a message that is not valid UTF-8 is repaired, and a frame has a
//! largest size.
//!
//! Source: gRPC over HTTP2, and HTTP to gRPC Status Code Mapping, both in the documents of gRPC.

use crate::head::Head;
use crate::names::Known;

pub use self::count::GrpcMessageCount;
pub use self::frames::{GrpcFault, GrpcFrames, frame};
pub use self::status::{GrpcCode, GrpcStatus, percent_encode, status_number};
pub use self::timeout::{parse_timeout, show_timeout};

mod count;
mod frames;
mod status;
mod timeout;

/// The media type of gRPC, whatever its messages are encoded in.
pub const CONTENT_TYPE: &[u8] = b"application/grpc";

/// The headers of a call of `method`, which is a path: `/package.Service/Method`.
pub fn request_head(scheme: &str, authority: &str, method: &str) -> Head {
    let mut head = Head::request("POST", scheme, authority, method);
    head.append_known(Known::ContentType, CONTENT_TYPE);
    head.append_known(Known::Te, b"trailers");
    head
}
