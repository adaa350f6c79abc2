//! gRPC: messages do not depend on how a body was cut and are bounded; any headers and trailers have a status whose
//! text survives its encoding; a timeout is never longer than what was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::Head;
use sluice_codec::grpc::{
    GrpcFault, GrpcFrames, GrpcStatus, frame, parse_timeout, percent_encode, show_timeout,
};

const MESSAGE_MAX: usize = 300;

fn read(body: &[u8], step: usize) -> (Vec<Vec<u8>>, Result<(), GrpcFault>) {
    let (mut frames, mut messages) = (GrpcFrames::new(MESSAGE_MAX), Vec::new());
    for piece in body.chunks(step) {
        frames.push(piece);
        loop {
            match frames.message() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break,
                Err(fault) => return (messages, Err(fault)),
            }
        }
        assert!(frames.held() < MESSAGE_MAX + 5);
    }
    (messages, frames.finish())
}

fuzz_target!(|input: &[u8]| {
    let (messages, end) = read(input, input.len().max(1));
    for step in [1, 3] {
        assert_eq!(read(input, step), (messages.clone(), end));
    }
    let body: Vec<u8> =
        messages.iter().flat_map(|message| frame(message).expect("it is short")).collect();
    assert!(input.starts_with(&body));

    let (number, text) = input.split_at(input.len().min(2));
    let mut trailers = Head::default();
    trailers.append(b"grpc-status", number);
    trailers.append(b"grpc-message", text);
    let status = GrpcStatus::of_response(&Head::response(200), Some(&trailers));
    let encoded = percent_encode(status.text.as_bytes());
    // Longer texts are cut when they are read.
    if encoded.len() <= 1024 {
        let mut again = Head::default();
        again.append(b"grpc-status", status.code.number().to_string().as_bytes());
        again.append(b"grpc-message", encoded.as_bytes());
        assert_eq!(GrpcStatus::of_response(&Head::response(200), Some(&again)), status);
    }

    if let Some(timeout) = parse_timeout(input) {
        let shown = show_timeout(timeout);
        assert!(parse_timeout(shown.as_bytes()).is_some_and(|read| read <= timeout));
    }
});
