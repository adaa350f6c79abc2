//! The messages of `envoy.service.network_ext_proc.v3.NetworkExternalProcessor/Process`, as far as they are used.
//!
//! Owns: field numbers and types, and what an answer means. Refuses to know: when an answer is due. Keeps: fields that are not here are
//! skipped when they are received, as Protocol Buffers prescribe.
//!
//! Source: `envoy/service/network_ext_proc/v3/network_external_processor.proto`.
#![allow(missing_docs, reason = "the fields are those of the service's definition")]

use bytes::Bytes;

/// The method.
pub(super) const PROCESS: &str =
    "/envoy.service.network_ext_proc.v3.NetworkExternalProcessor/Process";

/// Which way bytes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BytesSide {
    /// From the client.
    Received,
    /// To the client.
    Sent,
}

/// A piece of the bytes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct DataMessage {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) data: Bytes,
    #[prost(bool, tag = "2")]
    pub(super) end_of_stream: bool,
}

/// What the service is sent.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct BytesQuestion {
    #[prost(message, optional, tag = "1")]
    pub(super) read_data: Option<DataMessage>,
    #[prost(message, optional, tag = "2")]
    pub(super) write_data: Option<DataMessage>,
}

/// What it answers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct BytesAnswerMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) read_data: Option<DataMessage>,
    #[prost(message, optional, tag = "2")]
    pub(super) write_data: Option<DataMessage>,
    #[prost(int32, tag = "3")]
    pub(super) data_processing_status: i32,
    #[prost(int32, tag = "4")]
    pub(super) connection_status: i32,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BytesSaid {
    /// The bytes of a side pass: these in their place, or as they are.
    Pass(BytesSide, Option<Bytes>),
    /// The connection closes, in order or with a reset.
    Close,
    Reset,
    /// Nothing.
    Nothing,
}

/// The number of a `DataProcessedStatus`.
const UNMODIFIED: i32 = 1;

/// The numbers of a `ConnectionStatus`.
const CLOSE: i32 = 1;
const CLOSE_RST: i32 = 2;

impl BytesQuestion {
    pub(super) fn of(side: BytesSide, bytes: &[u8], last: bool) -> Self {
        let data = DataMessage { data: Bytes::copy_from_slice(bytes), end_of_stream: last };
        match side {
            BytesSide::Received => Self { read_data: Some(data), write_data: None },
            BytesSide::Sent => Self { read_data: None, write_data: Some(data) },
        }
    }
}

impl BytesAnswerMessage {
    /// What it says. What becomes of the connection comes before its bytes, as in Envoy.
    pub(super) fn said(self) -> BytesSaid {
        match self.connection_status {
            CLOSE => return BytesSaid::Close,
            CLOSE_RST => return BytesSaid::Reset,
            _ => {}
        }
        let (side, data) = match (self.read_data, self.write_data) {
            (Some(data), _) => (BytesSide::Received, data.data),
            (None, Some(data)) => (BytesSide::Sent, data.data),
            (None, None) => return BytesSaid::Nothing,
        };
        let as_they_are = self.data_processing_status == UNMODIFIED;
        BytesSaid::Pass(side, (!as_they_are).then_some(data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_what_envoy_takes_them_for() {
        let data = |text: &'static [u8]| {
            Some(DataMessage { data: Bytes::from_static(text), end_of_stream: false })
        };
        let of = |read, write, status, connection| BytesAnswerMessage {
            read_data: read,
            write_data: write,
            data_processing_status: status,
            connection_status: connection,
        };
        let pass =
            |side, text: Option<&'static [u8]>| BytesSaid::Pass(side, text.map(Bytes::from_static));
        for (answer, said) in [
            (of(data(b"a"), None, 2, 0), pass(BytesSide::Received, Some(b"a"))),
            (of(data(b"a"), None, 0, 0), pass(BytesSide::Received, Some(b"a"))),
            (of(data(b"a"), None, 1, 0), pass(BytesSide::Received, None)),
            (of(None, data(b""), 2, 9), pass(BytesSide::Sent, Some(b""))),
            (of(data(b"a"), data(b"b"), 2, 0), pass(BytesSide::Received, Some(b"a"))),
            (of(data(b"a"), None, 2, 1), BytesSaid::Close),
            (of(None, None, 0, 2), BytesSaid::Reset),
            (of(None, None, 2, 0), BytesSaid::Nothing),
        ] {
            assert_eq!(answer.said(), said);
        }
    }
}
