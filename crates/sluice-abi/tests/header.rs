//! The header and the types of Rust describe the same bytes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_abi::{
    AbiBalancer, AbiConfig, AbiConnection, AbiField, AbiRequest, AbiText, AbiTicket, HostTable,
    MAJOR, MINOR, ModuleTable, connection_hook, endpoint_fact, endpoint_number, fact, part, record,
    result, step,
};

/// The places and numbers of the Rust side, each with the expression of C that must be equal.
fn both() -> Vec<(String, i64)> {
    let mut all = Vec::new();
    let mut add = |of: String, value: usize| all.push((of, i64::try_from(value).unwrap()));
    for (table, places, size) in [
        ("sluice_host", HostTable::PLACES, size_of::<HostTable>()),
        ("sluice_module", ModuleTable::PLACES, size_of::<ModuleTable>()),
    ] {
        add(format!("sizeof({table})"), size);
        for (entry, place) in places {
            add(format!("offsetof({table}, {entry})"), *place);
        }
        add(format!("offsetof({table}, size)"), 0);
        add(format!("offsetof({table}, major)"), 4);
        add(format!("offsetof({table}, minor)"), 6);
    }
    add("sizeof(sluice_text)".into(), size_of::<AbiText>());
    add("sizeof(sluice_field)".into(), size_of::<AbiField>());
    add("sizeof(sluice_request)".into(), size_of::<AbiRequest>());
    add("sizeof(sluice_connection)".into(), size_of::<AbiConnection>());
    add("sizeof(sluice_config)".into(), size_of::<AbiConfig>());
    add("sizeof(sluice_balancer)".into(), size_of::<AbiBalancer>());
    add("sizeof(sluice_ticket)".into(), size_of::<AbiTicket>());
    add("SLUICE_ABI_MAJOR".into(), MAJOR.into());
    add("SLUICE_ABI_MINOR".into(), MINOR.into());
    for (name, number) in [
        ("OK", result::OK),
        ("NOT_FOUND", result::NOT_FOUND),
        ("INVALID", result::INVALID),
        ("NOT_NOW", result::NOT_NOW),
        ("STALE", result::STALE),
        ("TOO_LARGE", result::TOO_LARGE),
        ("BUSY", result::BUSY),
        ("NOT_ALLOWED", result::NOT_ALLOWED),
        ("INTERNAL", result::INTERNAL),
        ("CONTINUE", step::CONTINUE),
        ("RESPOND", step::RESPOND),
        ("WAIT", step::WAIT),
        ("FAIL", step::FAIL),
        ("READ", step::READ),
        ("EDIT", step::EDIT),
        ("BUFFER", step::BUFFER),
        ("CLOSE", step::CLOSE),
        ("DROP", step::DROP),
        ("ENDPOINT_ADDRESS", endpoint_fact::ADDRESS),
        ("ENDPOINT_HOST", endpoint_fact::HOST),
        ("ENDPOINT_LOCALITY", endpoint_fact::LOCALITY),
        ("ENDPOINT_WEIGHT", endpoint_number::WEIGHT),
        ("ENDPOINT_LOAD", endpoint_number::LOAD),
        ("ENDPOINT_PRIORITY", endpoint_number::PRIORITY),
        ("ON_OPENED", connection_hook::OPENED),
        ("ON_RECEIVED", connection_hook::RECEIVED),
        ("ON_SENT", connection_hook::SENT),
        ("RECORD_CONNECTION", record::CONNECTION),
        ("RECORD_FLOW", record::FLOW),
        ("RECORD_REQUEST", record::REQUEST),
        ("RECORD_HEALTH", record::HEALTH),
        ("REQUEST_HEADERS", part::REQUEST_HEADERS),
        ("REQUEST_TRAILERS", part::REQUEST_TRAILERS),
        ("RESPONSE_HEADERS", part::RESPONSE_HEADERS),
        ("RESPONSE_TRAILERS", part::RESPONSE_TRAILERS),
        ("FACT_SOURCE", fact::SOURCE),
        ("FACT_PEER", fact::PEER),
        ("FACT_LOCAL", fact::LOCAL),
        ("FACT_PROTOCOL", fact::PROTOCOL),
        ("FACT_ROUTE", fact::ROUTE),
        ("FACT_SNI", fact::SNI),
        ("FACT_REQUEST", fact::REQUEST),
        ("FACT_LISTENER", fact::LISTENER),
    ] {
        all.push((format!("SLUICE_{name}"), number.into()));
    }
    all
}

#[test]
fn the_header_has_the_same_places_and_numbers_in_c_and_cpp() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let both = both();
    let mut text =
        "#include \"sluice_filter.h\"\n#include <stdio.h>\nint main(void) {\n".to_owned();
    for (expression, _) in &both {
        writeln!(text, "printf(\"%lld\\n\", (long long)({expression}));").unwrap();
    }
    text.push_str("return 0; }\n");
    for (compiler, language, standard) in [("cc", "c", "-std=c99"), ("c++", "c++", "-std=c++17")] {
        let (source, program) = (folder.join(format!("layout.{language}")), folder.join(language));
        std::fs::write(&source, &text).unwrap();
        let mut command = Command::new(compiler);
        command.args([standard, "-Wall", "-Wextra", "-pedantic", "-Werror", "-x", language]);
        let built = command.arg("-I").arg(&include).arg(&source).arg("-o").arg(&program).output();
        // A compiler of C links Rust; that of C++ may be missing.
        let Ok(built) = built else { continue };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let printed = Command::new(&program).output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        let of_c: Vec<i64> = printed.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(of_c.len(), both.len());
        for ((expression, expected), of_c) in both.iter().zip(of_c) {
            assert_eq!(of_c, *expected, "{expression} in {language}");
        }
    }
}
