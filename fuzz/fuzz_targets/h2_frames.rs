//! HTTP/2 frames: no bytes make either side of a connection panic, what is held is bounded and released, and cutting the
//! bytes changes nothing.
//!
//! The first byte selects the side and how the bytes are cut.
#![no_main]

use std::task::{Context, Waker};

use libfuzzer_sys::fuzz_target;
use sluice_codec::h1::Role;
use sluice_codec::h2::H2Options;
use sluice_codec::h2::frame::PREFACE;
use sluice_codec::h2::machine::{H2Machine, MachineEvent};
use sluice_codec::h2::supply::H2Supply;
use sluice_codec::{Body, Head};
use sluice_core::Moment;
use sluice_io::buffers::BufPool;

const NOW: Moment = Moment::from_micros(0);

fn output(machine: &mut H2Machine) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let pieces = machine.fill(64 << 10, usize::MAX);
        if machine.waiting().is_empty() {
            return out;
        }
        out.extend_from_slice(machine.waiting());
        machine.sent(&pieces);
    }
}

fn run(role: Role, bytes: &[u8], cut: usize) -> Vec<u8> {
    let mut cx = Context::from_waker(Waker::noop());
    let supply = H2Supply::new(BufPool::new(4 << 20));
    let buffers = supply.buffers.clone();
    let mut machine = H2Machine::new(role, &H2Options::default(), supply, NOW);
    let mut keys = Vec::new();
    match role {
        Role::Server => machine.feed(PREFACE, NOW),
        Role::Client => {
            let head = Head::request("GET", "http", "a", "/");
            keys.extend((0..3).map(|n| machine.open(&head, n == 0).expect("it can be opened")));
        }
    }
    bytes.chunks(cut).for_each(|piece| machine.feed(piece, NOW));
    while let Some(event) = machine.poll_event() {
        if let MachineEvent::Request(key, _) = event {
            let _ = machine.send_head(key, &Head::response(200), false);
            let _ = machine.send_data(key, Body::Shared(vec![0; 9000].into()), true);
            keys.push(key);
        }
    }
    let out = output(&mut machine);
    for key in keys {
        let mut head = Head::default();
        while let std::task::Poll::Ready(Ok(())) = machine.poll_recv_head(key, &cx, &mut head) {}
        let _ = machine.poll_recv(key, &mut cx);
        machine.release(key);
    }
    let mut now = NOW;
    while let Some(due) = machine.expire_lingering(now) {
        now = due;
    }
    assert_eq!((machine.open_streams(), machine.bytes_waiting()), (0, 0));
    drop(machine);
    assert_eq!(buffers.bytes_out(), 0);
    out
}

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let role = if first & 1 == 0 { Role::Server } else { Role::Client };
    let cut = 1 + usize::from(first >> 1);
    assert_eq!(run(role, bytes, bytes.len().max(1)), run(role, bytes, cut));
});
