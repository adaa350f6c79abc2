//! The first packets of QUIC: no datagram causes a panic, and the frames of a hello reassemble to the original hello,
//! however they are split and ordered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_core::{Clock, Moment};
use sluice_io::WorkerCx;
use sluice_l4::inspect::tls::read_message;
use sluice_l4::quic::{Hellos, Pieces, initial};

thread_local! {
    static HELLOS: Hellos = Hellos::new(&WorkerCx::solitary(Clock::held()));
}

fuzz_target!(|input: (Vec<u8>, Vec<(u8, u8)>)| {
    let (bytes, cuts) = input;
    HELLOS.with(|hellos| hellos.take(Moment::default(), &bytes, false));
    initial::read_frames(&bytes, |at, piece| {
        Pieces::default().add(at, piece);
    });
    let mut pieces = Pieces::default();
    let length = bytes.len();
    for (at, count) in cuts {
        let at = usize::from(at).min(length);
        let end = (at + usize::from(count)).min(length);
        pieces.add(at, &bytes[at..end]);
    }
    assert!(bytes.starts_with(pieces.front()));
    pieces.add(0, &bytes);
    assert_eq!(pieces.front(), bytes);
    assert_eq!(read_message(pieces.front()), read_message(&bytes));
});
