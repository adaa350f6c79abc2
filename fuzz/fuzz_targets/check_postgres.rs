//! The dialogue of a check by PostgreSQL: whatever the endpoint sends, it ends or waits, and cutting does not change how.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{dialogue_ends_alike_however_it_is_cut, login};
use sluice_upstream::plan::{CheckKind, PostgresCheck, ServerRole};

fuzz_target!(|stream: &[u8]| {
    let kind = CheckKind::Postgres(PostgresCheck {
        login: Some(login("sluice")),
        database: None,
        role: Some(ServerRole::Primary),
    });
    dialogue_ends_alike_however_it_is_cut(&kind, stream);
});
