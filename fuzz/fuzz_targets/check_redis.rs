//! The dialogue of a check by Redis: whatever the endpoint sends, it ends or waits, and cutting does not change how.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::dialogue_ends_alike_however_it_is_cut;
use sluice_upstream::plan::{CheckKind, Password, RedisCheck, ServerRole};

fuzz_target!(|stream: &[u8]| {
    let kind = CheckKind::Redis(RedisCheck {
        user: Some("sluice".into()),
        password: Some(Password("secret".into())),
        role: Some(ServerRole::Primary),
    });
    dialogue_ends_alike_however_it_is_cut(&kind, stream);
});
