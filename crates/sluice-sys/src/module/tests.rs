//! What libraries may pass that they should not, and what tables they may have.
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a test calls several functions of a library's side"
)]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "all that is passed is checked by what is tested"
)]

use std::cell::RefCell;
use std::path::Path;

use sluice_abi::{
    AbiConfig, AbiConnection, AbiField, AbiRequest, AbiText, AbiTicket, HostTable, ModuleTable,
};
use sluice_abi::{part, result};

use super::call::{
    self, ConfigCall, ConnectionCall, HeaderPart, HostAnswer, HostRefusal, ModuleCall, RequestFact,
};
use super::host::HOST;
use super::{Module, ModuleError, mailbox};

mod balancers;

const HOST_TABLE: &HostTable = &HOST;
const REQUEST: AbiRequest = AbiRequest { id: 7 };

/// A request with one header, which can be changed.
#[derive(Debug, Default)]
struct Fake {
    value: Vec<u8>,
    lines: RefCell<Vec<String>>,
    panics: bool,
}

impl ModuleCall for Fake {
    fn header(&mut self, _: HeaderPart, name: &[u8], index: usize) -> HostAnswer<Option<&[u8]>> {
        assert!(!self.panics, "an error of the host");
        Ok(Some(&*self.value).filter(|_| name == b"x-a" && index == 0))
    }
    fn headers(&mut self, _: HeaderPart, tell: &mut dyn FnMut(&[u8], &[u8])) -> HostAnswer<()> {
        tell(b"x-a", &self.value);
        tell(b"x-b", b"2");
        Ok(())
    }
    fn add_header(&mut self, _: HeaderPart, _: &[u8], _: &[u8]) -> HostAnswer<()> {
        Err(HostRefusal::NotNow)
    }
    fn set_header(&mut self, _: HeaderPart, _: &[u8], value: &[u8]) -> HostAnswer<()> {
        self.value = value.to_vec();
        Ok(())
    }
    fn remove_header(&mut self, _: HeaderPart, _: &[u8]) -> HostAnswer<bool> {
        Ok(false)
    }
    fn body(&mut self) -> HostAnswer<&[u8]> {
        Err(HostRefusal::NotNow)
    }
    fn set_body(&mut self, _: &[u8]) -> HostAnswer<()> {
        Err(HostRefusal::TooLarge)
    }
    fn respond(&mut self, _: u32, fields: &[(&[u8], &[u8])], _: &[u8], _: &[u8]) -> HostAnswer<()> {
        if fields.len() == 2 { Ok(()) } else { Err(HostRefusal::Invalid) }
    }
    fn value(&mut self, _: &[u8]) -> HostAnswer<Option<&[u8]>> {
        Ok(None)
    }
    fn set_value(&mut self, _: &[u8], _: &[u8]) -> HostAnswer<()> {
        Ok(())
    }
    fn fact(&mut self, fact: RequestFact) -> HostAnswer<Option<&[u8]>> {
        Ok(Some(b"a").filter(|_| fact == RequestFact::Listener).map(|name| &name[..]))
    }
    fn count(&mut self, _: u32, _: u64) -> HostAnswer<()> {
        Err(HostRefusal::NotAllowed)
    }
    fn reroute(&mut self) -> HostAnswer<()> {
        Ok(())
    }
    fn suspend(&mut self) -> HostAnswer<AbiTicket> {
        Ok(AbiTicket { id: 1, generation: 2 })
    }
    fn call(&mut self, _: &[u8], fields: &[(&[u8], &[u8])], _: &[u8], _: u64) -> HostAnswer<()> {
        if fields.len() == 2 { Ok(()) } else { Err(HostRefusal::NotAllowed) }
    }
    fn call_answer(&mut self) -> HostAnswer<Option<(u32, &[u8])>> {
        Ok(Some((204, &self.value)))
    }
    fn call_header(&mut self, _: &[u8], index: usize) -> HostAnswer<Option<&[u8]>> {
        Ok(Some(&*self.value).filter(|_| index == 0))
    }
    fn log(&mut self, level: i32, line: String) {
        self.lines.borrow_mut().push(format!("{level} {line}"));
    }
}

/// A connection with some bytes.
#[derive(Debug, Default)]
struct FakeConnection {
    bytes: Vec<u8>,
    lines: RefCell<Vec<String>>,
}

impl ConnectionCall for FakeConnection {
    fn fact(&mut self, fact: RequestFact) -> HostAnswer<Option<&[u8]>> {
        Ok(Some(b"a").filter(|_| fact == RequestFact::Source).map(|name| &name[..]))
    }
    fn value(&mut self, _: &[u8]) -> HostAnswer<Option<&[u8]>> {
        Ok(None)
    }
    fn set_value(&mut self, _: &[u8], _: &[u8]) -> HostAnswer<()> {
        Err(HostRefusal::NotNow)
    }
    fn count(&mut self, _: u32, _: u64) -> HostAnswer<()> {
        Ok(())
    }
    fn bytes(&mut self) -> HostAnswer<&[u8]> {
        Ok(&self.bytes)
    }
    fn set_bytes(&mut self, bytes: &[u8]) -> HostAnswer<()> {
        self.bytes = bytes.to_vec();
        Ok(())
    }
    fn note(&mut self, _: &[u8]) -> HostAnswer<()> {
        Ok(())
    }
    fn suspend(&mut self) -> HostAnswer<AbiTicket> {
        Err(HostRefusal::NotNow)
    }
    fn log(&mut self, level: i32, line: String) {
        self.lines.borrow_mut().push(format!("{level} {line}"));
    }
}

#[test]
fn functions_of_connections_and_calls_check_what_they_are_passed() {
    let missing = AbiText { data: std::ptr::null(), size: 5 };
    let huge = AbiText { data: b"x".as_ptr(), size: usize::MAX };
    let mut text = AbiText::NONE;
    let place = &raw mut text;
    let misaligned = place.cast::<u8>().wrapping_add(1).cast::<AbiText>();
    let mut fake = FakeConnection { bytes: b"abc".into(), ..FakeConnection::default() };
    let bytes = HOST_TABLE.connection_bytes.unwrap();
    let own = AbiConnection { id: 7 };
    assert_eq!(unsafe { bytes(own, place) }, result::NOT_NOW);
    call::enter_connection(7, &mut fake, |connection| {
        assert_eq!(unsafe { bytes(AbiConnection { id: 8 }, place) }, result::STALE);
        assert_eq!(unsafe { bytes(connection, std::ptr::null_mut()) }, result::INVALID);
        assert_eq!(unsafe { bytes(connection, misaligned) }, result::INVALID);
        assert_eq!(unsafe { bytes(connection, place) }, result::OK);
        let set = HOST_TABLE.connection_bytes_set.unwrap();
        assert_eq!(unsafe { set(connection, missing) }, result::INVALID);
        assert_eq!(unsafe { set(connection, huge) }, result::TOO_LARGE);
        assert_eq!(unsafe { set(connection, AbiText::of(b"d")) }, result::OK);
        let fact = HOST_TABLE.connection_fact.unwrap();
        assert_eq!(unsafe { fact(connection, 99, place) }, result::INVALID);
        assert_eq!(unsafe { fact(connection, sluice_abi::fact::SNI, place) }, result::NOT_FOUND);
        let share = HOST_TABLE.connection_value_set.unwrap();
        assert_eq!(unsafe { share(connection, huge, AbiText::NONE) }, result::TOO_LARGE);
        assert_eq!(unsafe { share(connection, AbiText::NONE, AbiText::NONE) }, result::NOT_NOW);
        let note = HOST_TABLE.connection_note.unwrap();
        assert_eq!(unsafe { note(connection, missing) }, result::INVALID);
        let suspend = HOST_TABLE.connection_suspend.unwrap();
        assert_eq!(unsafe { suspend(connection, std::ptr::null_mut()) }, result::INVALID);
        let log = HOST_TABLE.log.unwrap();
        assert_eq!(unsafe { log(2, AbiText::of(b"of a connection")) }, result::OK);
        // No request is at hand, and nothing at all outside.
        assert_eq!(header(REQUEST, 0, AbiText::NONE, place), result::NOT_NOW);
        assert_eq!(call::outside(|| unsafe { bytes(connection, place) }), result::NOT_NOW);
    });
    assert_eq!(fake.bytes, b"d");
    assert_eq!(*fake.lines.borrow(), ["2 of a connection"]);
    let mut fake = Fake { value: b"1".into(), ..Fake::default() };
    call::enter(REQUEST.id, &mut fake, |request| {
        let name = AbiText::of(b"a");
        let call = HOST_TABLE.call.unwrap();
        let fields = [AbiField { name, value: name }, AbiField { name, value: missing }];
        let calls =
            |fields, count, body| unsafe { call(request, name, fields, count, body, u64::MAX) };
        assert_eq!(calls(fields.as_ptr(), 2, AbiText::NONE), result::INVALID);
        assert_eq!(calls(fields.as_ptr(), 1, huge), result::TOO_LARGE);
        assert_eq!(calls(fields.as_ptr(), usize::MAX, AbiText::NONE), result::TOO_LARGE);
        assert_eq!(calls(std::ptr::null(), 2, AbiText::NONE), result::INVALID);
        assert_eq!(calls(fields.as_ptr(), 1, AbiText::NONE), result::NOT_ALLOWED);
        let answer = HOST_TABLE.call_answer.unwrap();
        let mut status = 0;
        assert_eq!(unsafe { answer(request, std::ptr::null_mut(), place) }, result::INVALID);
        assert_eq!(
            unsafe { answer(request, &raw mut status, std::ptr::null_mut()) },
            result::INVALID
        );
        assert_eq!(unsafe { answer(request, &raw mut status, place) }, result::OK);
        assert_eq!(status, 204);
        let header = HOST_TABLE.call_header.unwrap();
        assert_eq!(unsafe { header(request, huge, 0, place) }, result::TOO_LARGE);
        assert_eq!(unsafe { header(request, name, 1, place) }, result::NOT_FOUND);
    });
}

fn header(request: AbiRequest, part: i32, name: AbiText, value: *mut AbiText) -> i32 {
    let function = HOST_TABLE.header.unwrap();
    unsafe { function(request, part, name, 0, value) }
}

#[test]
fn a_handle_is_valid_during_its_call_on_its_thread_only() {
    let name = AbiText::of(b"x-a");
    let mut value = AbiText::NONE;
    let mut fake = Fake { value: b"1".into(), ..Fake::default() };
    let place = &raw mut value;
    assert_eq!(header(REQUEST, part::REQUEST_HEADERS, name, place), result::NOT_NOW);
    let numbers = call::enter(REQUEST.id, &mut fake, |request| {
        let own = header(request, part::REQUEST_HEADERS, name, place);
        let other = header(AbiRequest { id: 8 }, part::REQUEST_HEADERS, name, place);
        let elsewhere = std::thread::spawn(|| {
            let mut value = AbiText::NONE;
            header(REQUEST, part::REQUEST_HEADERS, AbiText::of(b"x-a"), &raw mut value)
        });
        let elsewhere = elsewhere.join().unwrap();
        // Another request begins and ends within this call: the first is at hand again.
        let mut second = Fake::default();
        let within = call::enter(8, &mut second, |_| header(request, 0, name, place));
        let outside = call::outside(|| header(request, 0, name, place));
        (own, other, elsewhere, within, outside, header(request, 0, name, place))
    });
    let expected =
        (result::OK, result::STALE, result::NOT_NOW, result::STALE, result::NOT_NOW, result::OK);
    assert_eq!(numbers, expected);
    assert_eq!(unsafe { std::slice::from_raw_parts(value.data, value.size) }, b"1");
    assert_eq!(header(REQUEST, part::REQUEST_HEADERS, name, place), result::NOT_NOW);
}

#[test]
fn arguments_that_can_be_told_to_be_wrong_are_answers() {
    let name = AbiText::of(b"x-a");
    let missing = AbiText { data: std::ptr::null(), size: 5 };
    let huge = AbiText { data: b"x".as_ptr(), size: usize::MAX };
    let mut value = AbiText::NONE;
    let place = &raw mut value;
    let misaligned = place.cast::<u8>().wrapping_add(1).cast::<AbiText>();
    let mut fake = Fake::default();
    call::enter(REQUEST.id, &mut fake, |request| {
        for (part, name, place, expected) in [
            (0, missing, place, result::INVALID),
            (0, huge, place, result::TOO_LARGE),
            (0, name, std::ptr::null_mut(), result::INVALID),
            (0, name, misaligned, result::INVALID),
            (4, name, place, result::INVALID),
            (i32::MIN, name, place, result::INVALID),
            (0, AbiText::NONE, place, result::NOT_FOUND),
        ] {
            assert_eq!(header(request, part, name, place), expected, "{part} {name:?} {place:?}");
        }
        let set = HOST_TABLE.header_set.unwrap();
        assert_eq!(unsafe { set(request, 0, name, huge) }, result::TOO_LARGE);
        assert_eq!(unsafe { set(request, 0, name, missing) }, result::INVALID);
        let all = HOST_TABLE.headers.unwrap();
        let mut count = 0;
        let mut one = [AbiField { name: AbiText::NONE, value: AbiText::NONE }];
        assert_eq!(
            unsafe { all(request, 0, std::ptr::null_mut(), 1, &raw mut count) },
            result::INVALID
        );
        assert_eq!(
            unsafe { all(request, 0, one.as_mut_ptr(), 1, std::ptr::null_mut()) },
            result::INVALID
        );
        assert_eq!(unsafe { all(request, 0, one.as_mut_ptr(), 1, &raw mut count) }, result::OK);
        assert_eq!((count, one[0].name.size), (2, 3));
        let respond = HOST_TABLE.respond.unwrap();
        let fields = [AbiField { name, value: name }, AbiField { name, value: missing }];
        let told = |fields: *const AbiField, count, body| unsafe {
            respond(request, 200, fields, count, body, AbiText::NONE)
        };
        assert_eq!(told(fields.as_ptr(), 2, AbiText::NONE), result::INVALID);
        assert_eq!(told(fields.as_ptr(), usize::MAX, AbiText::NONE), result::TOO_LARGE);
        assert_eq!(told(std::ptr::null(), 1, AbiText::NONE), result::INVALID);
        assert_eq!(told(fields.as_ptr(), 0, huge), result::TOO_LARGE);
        let fields = [AbiField { name, value: name }; 2];
        assert_eq!(told(fields.as_ptr(), 2, AbiText::NONE), result::OK);
        let suspend = HOST_TABLE.suspend.unwrap();
        assert_eq!(unsafe { suspend(request, std::ptr::null_mut()) }, result::INVALID);
        let fact = HOST_TABLE.fact.unwrap();
        assert_eq!(unsafe { fact(request, 99, place) }, result::INVALID);
        assert_eq!(unsafe { fact(request, 0, place) }, result::NOT_FOUND);
        assert_eq!(unsafe { fact(request, sluice_abi::fact::LISTENER, place) }, result::OK);
        let count = HOST_TABLE.count.unwrap();
        assert_eq!(unsafe { count(request, u32::MAX, u64::MAX) }, result::NOT_ALLOWED);
        let log = HOST_TABLE.log.unwrap();
        assert_eq!(unsafe { log(i32::MAX, missing) }, result::INVALID);
        assert_eq!(unsafe { log(1, huge) }, result::TOO_LARGE);
        assert_eq!(unsafe { log(2, AbiText::of(b"a\nb\0\xff")) }, result::OK);
    });
    assert_eq!(*fake.lines.borrow(), ["2 a b \u{fffd}"]);
}

#[test]
fn a_panic_of_the_host_is_an_answer_and_the_next_call_works() {
    let mut value = AbiText::NONE;
    let mut fake = Fake { panics: true, ..Fake::default() };
    call::enter(REQUEST.id, &mut fake, |request| {
        let place = &raw mut value;
        assert_eq!(header(request, 0, AbiText::of(b"x-a"), place), result::INTERNAL);
        let reroute = HOST_TABLE.reroute.unwrap();
        assert_eq!(unsafe { reroute(request) }, result::OK);
    });
}

#[derive(Debug, Default)]
struct Checked(Vec<String>);

impl ConfigCall for Checked {
    fn refuse(&mut self, why: String) {
        self.0.push(why);
    }
    fn counter(&mut self, _: &[u8]) -> HostAnswer<u32> {
        Ok(3)
    }
    fn edits_target(&mut self) {
        self.0.push("target".to_owned());
    }
}

#[test]
fn configurations_are_refused_with_words_while_they_are_checked() {
    let refuse = HOST_TABLE.config_refuse.unwrap();
    let why = AbiText::of(b"no such tier");
    let mut checked = Checked::default();
    let kept = call::enter_config(&mut checked, |config| {
        assert_eq!(unsafe { refuse(config, why) }, result::OK);
        assert_eq!(unsafe { refuse(AbiConfig { id: config.id + 1 }, why) }, result::STALE);
        let counter = HOST_TABLE.config_counter.unwrap();
        let mut number = 0;
        assert_eq!(unsafe { counter(config, why, std::ptr::null_mut()) }, result::INVALID);
        assert_eq!(unsafe { counter(config, why, &raw mut number) }, result::OK);
        assert_eq!(number, 3);
        config
    });
    assert_eq!(unsafe { refuse(kept, why) }, result::NOT_NOW);
    assert_eq!(checked.0, ["no such tier"]);
}

unsafe extern "C" fn config_new(
    _: AbiConfig,
    _: AbiText,
    _: AbiText,
    _: *mut *mut std::ffi::c_void,
) -> i32 {
    result::OK
}

#[track_caller]
fn table(table: ModuleTable) -> Result<Module, ModuleError> {
    Module::with_table("a.so".into(), &raw const table)
}

#[test]
fn tables_of_other_versions_and_sizes() {
    #[allow(clippy::cast_possible_truncation, reason = "a table has a few hundred bytes")]
    let whole = ModuleTable {
        size: size_of::<ModuleTable>() as u32,
        major: 1,
        name: AbiText::of(b"a 1"),
        config_new: Some(config_new),
        ..ModuleTable::EMPTY
    };
    assert_eq!(table(whole).unwrap().name(), "a 1");
    // An older one ends behind `config_new`; what follows in memory is not read.
    let older = ModuleTable { size: 32, request_headers: None, ..whole };
    assert!(table(older).unwrap().table.config_free.is_none());
    // A newer one has more entries; its minor version may be any.
    let newer = ModuleTable { size: 4096, minor: 9, ..whole };
    // Only as many bytes are read as are known here.
    assert!(table(newer).is_ok());
    for (wrong, error) in [
        (ModuleTable { major: 2, ..whole }, ModuleError::Version(2, 0)),
        (ModuleTable { size: 0, ..whole }, ModuleError::Table("has a size that cannot be right")),
        (ModuleTable { size: 31, ..whole }, ModuleError::Table("has a size that cannot be right")),
        (
            ModuleTable { size: u32::MAX, ..whole },
            ModuleError::Table("has a size that cannot be right"),
        ),
        (ModuleTable { config_new: None, ..whole }, ModuleError::Table("has no `config_new`")),
        (
            ModuleTable { name: AbiText { data: std::ptr::null(), size: 1 }, ..whole },
            ModuleError::Table("has no usable name"),
        ),
    ] {
        assert_eq!(table(wrong).unwrap_err(), error);
    }
    let none = Module::with_table("a.so".into(), std::ptr::null());
    assert_eq!(none.unwrap_err(), ModuleError::Refused);
}

#[test]
fn files_that_are_no_libraries_of_sluice() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("a.so");
    std::fs::write(&text, "no library").unwrap();
    let said = |path: &Path| Module::open(path).unwrap_err().to_string();
    assert!(said(&folder.path().join("none.so")).contains("No such file"));
    assert!(said(&text).contains("file too short") || said(&text).contains("invalid ELF"));
    let libc = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6"];
    for path in libc.iter().map(Path::new).filter(|path| path.exists()) {
        assert_eq!(Module::open(path).unwrap_err(), ModuleError::NoInit);
    }
}

#[tokio::test]
async fn waits_end_from_any_thread_and_a_full_queue_says_so() {
    let resume = HOST_TABLE.resume.unwrap();
    let (mut mailbox, number) = mailbox::Mailbox::open();
    let ticket = mailbox::ticket(number, 5, 9);
    assert_eq!(mailbox::place_of(ticket), 5);
    let told = std::thread::spawn(move || unsafe { resume(ticket) });
    assert_eq!(mailbox.next().await, Some(ticket));
    assert_eq!(told.join().unwrap(), result::OK);
    let nowhere = AbiTicket { id: u64::MAX, generation: 0 };
    assert_eq!(unsafe { resume(nowhere) }, result::INVALID);
    for _ in 0..mailbox::RESUMES_QUEUED {
        assert_eq!(unsafe { resume(ticket) }, result::OK);
    }
    assert_eq!(unsafe { resume(ticket) }, result::BUSY);
    drop(mailbox);
    assert_eq!(unsafe { resume(ticket) }, result::STALE);
}
