//! A library that does as bytes say: calls of the host with any handles, pointers and lengths that can be told to be wrong.
//!
//! Owns: the library, and a host with one request, one connection and one configuration. Refuses to know: where the bytes come from.
//! Keeps: what it passes as valid is, and it reads all that it is lent, so that a sanitizer sees both sides.
#![allow(unsafe_code, reason = "it is a library, with functions of C")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "what is passed is checked by what is tested"
)]

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

use sluice_abi::{
    AbiConfig, AbiConnection, AbiField, AbiRequest, AbiText, AbiTicket, HostTable, MAJOR, MINOR,
    ModuleTable, result,
};
use sluice_sys::module::{
    ConfigCall, ConnectionCall, ConnectionHook, HeaderPart, HostAnswer, HostRefusal, Module,
    ModuleCall, ModuleHook, RequestFact,
};

/// The most calls of one hook.
const CALLS: usize = 64;

/// The bytes that are left.
#[derive(Debug, Default)]
struct Program(Vec<u8>);

impl Program {
    fn byte(&mut self) -> u8 {
        self.0.pop().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes([(); 8].map(|()| self.byte()))
    }

    /// The handle at hand, one of another, or any.
    fn handle(&mut self, own: u64) -> u64 {
        match self.byte() % 8 {
            0 => own.wrapping_add(1),
            1 => self.number(),
            _ => own,
        }
    }

    fn small(&mut self) -> i32 {
        match self.byte() {
            byte @ 0..=250 => i32::from(byte % 10),
            251 => -1,
            252 => i32::MIN,
            253 => i32::MAX,
            _ => 99,
        }
    }

    /// A text: none, missing, too long, or some of `room`.
    fn text(&mut self, room: &[u8]) -> AbiText {
        let data = room.as_ptr();
        match self.byte() % 8 {
            0 => AbiText::NONE,
            1 => AbiText { data: std::ptr::null(), size: 5 },
            2 => AbiText { data, size: usize::MAX },
            3 => AbiText { data, size: (1 << 30) + 1 },
            _ => AbiText { data, size: usize::from(self.byte()).min(room.len()) },
        }
    }

    /// A place: none, one that is not aligned, or this.
    fn place<T>(&mut self, of: &mut T) -> *mut T {
        match self.byte() % 8 {
            0 => std::ptr::null_mut(),
            1 => std::ptr::from_mut(of).cast::<u8>().wrapping_add(1).cast(),
            _ => of,
        }
    }
}

thread_local! {
    static PROGRAM: RefCell<Program> = RefCell::default();
}

static HOST: OnceLock<HostTable> = OnceLock::new();

/// Runs a program in the hooks of a configuration, a request and a connection.
pub(crate) fn run(program: &[u8]) {
    PROGRAM.set(Program(program.to_vec()));
    let module = module();
    let mut checked = Checked;
    let Ok(config) = module.config("a", program, &mut checked) else { return };
    let config = Arc::new(config);
    let mut host = Host { bytes: program.to_vec() };
    if let Ok(mut request) = config.begin(1000, &mut host) {
        for hook in [ModuleHook::RequestHeaders, ModuleHook::ResponseBody] {
            request.hook(hook, &mut host, true);
            request.resumed(hook, &mut host);
        }
        request.end(&mut host);
    }
    if let Ok(mut connection) = config.connect(2000, &mut host) {
        for hook in [ConnectionHook::Opened, ConnectionHook::Received] {
            connection.hook(hook, &mut host, false);
            connection.resumed(hook, &mut host);
        }
        // Without an end: its object is freed all the same, with nothing at hand.
    }
    config.records_done();
    assert!(config.record(0, "a line").is_ok());
}

fn module() -> &'static Module {
    static MODULE: OnceLock<&Module> = OnceLock::new();
    // SAFETY: the table below is static, and its functions keep to the header as far as that is not what is tried out.
    MODULE.get_or_init(|| unsafe { Module::linked("driver", init) }.expect("its table is right"))
}

unsafe extern "C" fn init(host: *const HostTable) -> *const ModuleTable {
    HOST.get_or_init(|| unsafe { *host });
    &raw const TABLE.0
}

struct StaticTable(ModuleTable);

// SAFETY: the pointer in it is that of a static text.
unsafe impl Sync for StaticTable {}

#[allow(clippy::cast_possible_truncation, reason = "a table has a few hundred bytes")]
static TABLE: StaticTable = StaticTable(ModuleTable {
    size: size_of::<ModuleTable>() as u32,
    major: MAJOR,
    minor: MINOR,
    name: AbiText::of(b"driver 1"),
    config_new: Some(config_new),
    config_free: Some(free),
    request_new: Some(request_new),
    request_end: Some(request_end),
    request_headers: Some(request_hook),
    request_body: None,
    request_trailers: None,
    response_headers: None,
    response_body: Some(request_hook),
    response_trailers: None,
    resumed: Some(request_hook),
    connection_new: Some(connection_new),
    connection_end: Some(connection_end),
    connection_opened: Some(connection_hook),
    connection_received: Some(connection_hook),
    connection_sent: None,
    connection_resumed: Some(connection_hook),
    record: Some(record),
    records_done: Some(records_done),
});

unsafe extern "C" fn config_new(
    config: AbiConfig,
    _: AbiText,
    _: AbiText,
    object: *mut *mut c_void,
) -> i32 {
    play(0, 0, config.id);
    unsafe { object.write(Box::into_raw(Box::new(1_u64)).cast()) };
    result::OK
}

unsafe extern "C" fn free(object: *mut c_void) {
    play(0, 0, 0);
    drop(unsafe { Box::from_raw(object.cast::<u64>()) });
}

unsafe extern "C" fn request_new(
    request: AbiRequest,
    _: *mut c_void,
    state: *mut *mut c_void,
) -> i32 {
    play(request.id, 0, 0);
    unsafe { state.write(Box::into_raw(Box::new(2_u64)).cast()) };
    result::OK
}

unsafe extern "C" fn request_end(request: AbiRequest, _: *mut c_void, state: *mut c_void) {
    play(request.id, 0, 0);
    drop(unsafe { Box::from_raw(state.cast::<u64>()) });
}

unsafe extern "C" fn request_hook(
    request: AbiRequest,
    _: *mut c_void,
    _: *mut c_void,
    _: i32,
) -> i32 {
    play(request.id, request.id, request.id);
    PROGRAM.with_borrow_mut(Program::small)
}

unsafe extern "C" fn connection_new(
    connection: AbiConnection,
    _: *mut c_void,
    state: *mut *mut c_void,
) -> i32 {
    play(0, connection.id, 0);
    unsafe { state.write(Box::into_raw(Box::new(3_u64)).cast()) };
    result::OK
}

unsafe extern "C" fn connection_end(connection: AbiConnection, _: *mut c_void, state: *mut c_void) {
    play(connection.id, connection.id, 0);
    drop(unsafe { Box::from_raw(state.cast::<u64>()) });
}

unsafe extern "C" fn connection_hook(
    connection: AbiConnection,
    _: *mut c_void,
    _: *mut c_void,
    _: i32,
) -> i32 {
    play(connection.id, connection.id, connection.id);
    PROGRAM.with_borrow_mut(Program::small)
}

unsafe extern "C" fn record(_: *mut c_void, _: i32, line: AbiText) -> i32 {
    play(1, 2, 3);
    read(line);
    result::OK
}

unsafe extern "C" fn records_done(_: *mut c_void) {
    play(1, 2, 3);
}

/// Reads what was lent, to its end.
fn read(text: AbiText) {
    if !text.data.is_null() {
        let bytes = unsafe { std::slice::from_raw_parts(text.data, text.size) };
        std::hint::black_box(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    }
}

/// Calls the host as the program says. A function that returns something else than OK has written nothing.
fn play(request: u64, connection: u64, config: u64) {
    let mut program = PROGRAM.take();
    let calls = usize::from(program.byte()) % CALLS;
    for _ in 0..calls {
        call(&mut program, request, connection, config);
    }
    PROGRAM.set(program);
}

#[allow(clippy::too_many_lines, reason = "one line for each function of the host")]
fn call(program: &mut Program, request: u64, connection: u64, config: u64) {
    let host = HOST.get().expect("the library was loaded");
    let room: Vec<u8> = (0..program.byte()).map(|_| program.byte()).collect();
    let request = AbiRequest { id: program.handle(request) };
    let connection = AbiConnection { id: program.handle(connection) };
    let config = AbiConfig { id: program.handle(config) };
    let (one, two, three) = (program.text(&room), program.text(&room), program.text(&room));
    let (small, count) = (program.small(), program.number());
    let mut lent = AbiText::NONE;
    let mut ticket = AbiTicket { id: count, generation: 0 };
    let (mut number, mut size) = (0_u32, 0_usize);
    let place = program.place(&mut lent);
    let pair = AbiField { name: one, value: two };
    let mut fields = [pair; 3];
    // As many as there are, or more than any host takes.
    let (array, many) = match program.byte() % 4 {
        0 => (std::ptr::null_mut(), 1),
        1 => (fields.as_mut_ptr().cast::<u8>().wrapping_add(1).cast(), 2),
        2 => (fields.as_mut_ptr(), usize::MAX),
        _ => (fields.as_mut_ptr(), usize::from(program.byte()) % 4),
    };
    macro_rules! host {
        ($name:ident($($argument:expr),*)) => { unsafe { host.$name.expect("it has all")($($argument),*) } };
    }
    let index = usize::try_from(count % 3).unwrap_or(0);
    let code = match program.byte() % 31 {
        0 => host!(log(small, one)),
        1 => host!(resume(ticket)),
        2 => host!(config_refuse(config, one)),
        3 => host!(config_counter(config, one, program.place(&mut number))),
        4 => host!(config_edits_target(config)),
        5 => host!(header(request, small, one, index, place)),
        6 => {
            // Room for no more than there is.
            let room = if many == usize::MAX { 3 } else { many };
            host!(headers(request, small, array, room, program.place(&mut size)))
        }
        7 => host!(header_add(request, small, one, two)),
        8 => host!(header_set(request, small, one, two)),
        9 => host!(header_remove(request, small, one)),
        10 => host!(body(request, place)),
        11 => host!(body_set(request, one)),
        12 => host!(respond(request, number, array, many, two, three)),
        13 => host!(value(request, one, place)),
        14 => host!(value_set(request, one, two)),
        15 => host!(fact(request, small, place)),
        16 => host!(count(request, number, count)),
        17 => host!(reroute(request)),
        18 => host!(suspend(request, program.place(&mut ticket))),
        19 => host!(call(request, one, array, many, two, count)),
        20 => host!(call_answer(request, program.place(&mut number), place)),
        21 => host!(call_header(request, one, index, place)),
        22 => host!(connection_fact(connection, small, place)),
        23 => host!(connection_value(connection, one, place)),
        24 => host!(connection_value_set(connection, one, two)),
        25 => host!(connection_count(connection, number, count)),
        26 => host!(connection_bytes(connection, place)),
        27 => host!(connection_bytes_set(connection, one)),
        28 => host!(connection_note(connection, one)),
        29 => host!(connection_suspend(connection, program.place(&mut ticket))),
        _ => host!(resume(AbiTicket { id: program.number(), generation: program.number() })),
    };
    assert!((result::INTERNAL + 1..=result::NOT_FOUND).contains(&code), "{code}");
    if code == result::OK {
        read(lent);
    }
}

/// A host whose headers, bodies and bytes are all the same.
#[derive(Debug)]
struct Host {
    bytes: Vec<u8>,
}

impl Host {
    fn some(&self, index: usize) -> HostAnswer<Option<&[u8]>> {
        match index {
            0 => Ok(Some(&self.bytes)),
            1 => Ok(None),
            _ => Err(HostRefusal::NotNow),
        }
    }
}

impl ModuleCall for Host {
    fn header(&mut self, _: HeaderPart, _: &[u8], index: usize) -> HostAnswer<Option<&[u8]>> {
        self.some(index)
    }
    fn headers(&mut self, _: HeaderPart, tell: &mut dyn FnMut(&[u8], &[u8])) -> HostAnswer<()> {
        (0..5).for_each(|_| tell(&self.bytes, &self.bytes));
        Ok(())
    }
    fn add_header(&mut self, _: HeaderPart, name: &[u8], value: &[u8]) -> HostAnswer<()> {
        self.bytes = [name, value].concat();
        Ok(())
    }
    fn set_header(&mut self, _: HeaderPart, _: &[u8], value: &[u8]) -> HostAnswer<()> {
        self.bytes = value.to_vec();
        Ok(())
    }
    fn remove_header(&mut self, _: HeaderPart, name: &[u8]) -> HostAnswer<bool> {
        Ok(name.is_empty())
    }
    fn body(&mut self) -> HostAnswer<&[u8]> {
        Ok(&self.bytes)
    }
    fn set_body(&mut self, bytes: &[u8]) -> HostAnswer<()> {
        self.bytes = bytes.to_vec();
        Ok(())
    }
    fn respond(&mut self, _: u32, fields: &[(&[u8], &[u8])], _: &[u8], _: &[u8]) -> HostAnswer<()> {
        self.bytes =
            fields.iter().flat_map(|(name, value)| [*name, *value]).flatten().copied().collect();
        Ok(())
    }
    fn value(&mut self, name: &[u8]) -> HostAnswer<Option<&[u8]>> {
        self.some(name.len())
    }
    fn set_value(&mut self, _: &[u8], _: &[u8]) -> HostAnswer<()> {
        Err(HostRefusal::TooLarge)
    }
    fn fact(&mut self, _: RequestFact) -> HostAnswer<Option<&[u8]>> {
        Ok(Some(&self.bytes))
    }
    fn count(&mut self, _: u32, _: u64) -> HostAnswer<()> {
        Ok(())
    }
    fn reroute(&mut self) -> HostAnswer<()> {
        Ok(())
    }
    fn suspend(&mut self) -> HostAnswer<AbiTicket> {
        Ok(AbiTicket { id: 0, generation: 1 })
    }
    fn call(&mut self, _: &[u8], _: &[(&[u8], &[u8])], _: &[u8], _: u64) -> HostAnswer<()> {
        Err(HostRefusal::NotAllowed)
    }
    fn call_answer(&mut self) -> HostAnswer<Option<(u32, &[u8])>> {
        Ok(Some((200, &self.bytes)))
    }
    fn call_header(&mut self, _: &[u8], index: usize) -> HostAnswer<Option<&[u8]>> {
        self.some(index)
    }
    fn log(&mut self, _: i32, line: String) {
        assert!(!line.contains(char::is_control));
    }
}

impl ConnectionCall for Host {
    fn fact(&mut self, _: RequestFact) -> HostAnswer<Option<&[u8]>> {
        Ok(Some(&self.bytes))
    }
    fn value(&mut self, name: &[u8]) -> HostAnswer<Option<&[u8]>> {
        self.some(name.len())
    }
    fn set_value(&mut self, _: &[u8], _: &[u8]) -> HostAnswer<()> {
        Ok(())
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
    fn log(&mut self, _: i32, line: String) {
        assert!(!line.contains(char::is_control));
    }
}

#[derive(Debug)]
struct Checked;

impl ConfigCall for Checked {
    fn refuse(&mut self, why: String) {
        assert!(!why.contains(char::is_control));
    }
    fn counter(&mut self, _: &[u8]) -> HostAnswer<u32> {
        Ok(0)
    }
    fn edits_target(&mut self) {}
}
