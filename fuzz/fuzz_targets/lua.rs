//! Arguments of what scripts in Lua call: whatever is called with anything, at any time, is at most an error that the script
//! catches as a text, and leaves behind what can be sent.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|program: &[u8]| {
    sluice_lua::hostile::run(program);
});
