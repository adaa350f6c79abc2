//! Arguments of what guests in WebAssembly call: no pointer, length, handle or number leads anywhere but to a status, whatever the guest
//! does with its memory, and what it leaves behind can be sent.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|program: &[u8]| {
    sluice_wasm::hostile::run(program);
});
