//! The dialogue of a check by MySQL: whatever the endpoint sends, it ends or waits, and cutting does not change how.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{dialogue_ends_alike_however_it_is_cut, login};
use sluice_upstream::plan::{CheckKind, MysqlCheck, ServerRole};

fuzz_target!(|stream: &[u8]| {
    let kind = CheckKind::Mysql(MysqlCheck { login: login("sluice"), role: Some(ServerRole::Replica) });
    dialogue_ends_alike_however_it_is_cut(&kind, stream);
});
