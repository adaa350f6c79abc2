//! A library that does as bytes say: calls of the host with any handles, pointers and lengths that can be told to be wrong.
//!
//! Owns: the library. Refuses to know: where the bytes come from, and what the host makes of its calls.
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
    AbiBalancer, AbiConfig, AbiConnection, AbiField, AbiRequest, AbiText, AbiTicket, HostTable,
    MAJOR, MINOR, ModuleTable, result,
};
use sluice_sys::module::{ConnectionHook, DatagramHook, Module, ModuleHook};

use fake_host::{Checked, Host};

#[path = "fake_host.rs"]
mod fake_host;

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
        for hook in [DatagramHook::Received, DatagramHook::Sent] {
            connection.datagram(hook, &mut host);
        }
        // Without an end: its object is freed all the same, with nothing at hand.
    }
    if let Ok(balancer) = config.balance(2, &mut host) {
        for _ in 0..2 {
            let picked = balancer.pick(&mut host);
            assert!(
                picked.is_err() || picked.is_ok_and(|place| place.is_none_or(|place| place < 2))
            );
        }
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
    datagram_received: Some(connection_hook),
    datagram_sent: Some(connection_hook),
    balancer_new: Some(balancer_new),
    balancer_free: Some(balancer_free),
    balancer_pick: Some(balancer_pick),
});

unsafe extern "C" fn config_new(
    config: AbiConfig,
    _: AbiText,
    _: AbiText,
    object: *mut *mut c_void,
) -> i32 {
    play([0, 0, config.id, 0]);
    unsafe { object.write(Box::into_raw(Box::new(1_u64)).cast()) };
    result::OK
}

unsafe extern "C" fn free(object: *mut c_void) {
    play([0; 4]);
    drop(unsafe { Box::from_raw(object.cast::<u64>()) });
}

unsafe extern "C" fn request_new(
    request: AbiRequest,
    _: *mut c_void,
    state: *mut *mut c_void,
) -> i32 {
    play([request.id, 0, 0, 0]);
    unsafe { state.write(Box::into_raw(Box::new(2_u64)).cast()) };
    result::OK
}

unsafe extern "C" fn request_end(request: AbiRequest, _: *mut c_void, state: *mut c_void) {
    play([request.id, 0, 0, 0]);
    drop(unsafe { Box::from_raw(state.cast::<u64>()) });
}

unsafe extern "C" fn request_hook(
    request: AbiRequest,
    _: *mut c_void,
    _: *mut c_void,
    _: i32,
) -> i32 {
    play([request.id; 4]);
    PROGRAM.with_borrow_mut(Program::small)
}

unsafe extern "C" fn connection_new(
    connection: AbiConnection,
    _: *mut c_void,
    state: *mut *mut c_void,
) -> i32 {
    play([0, connection.id, 0, 0]);
    unsafe { state.write(Box::into_raw(Box::new(3_u64)).cast()) };
    result::OK
}

unsafe extern "C" fn connection_end(connection: AbiConnection, _: *mut c_void, state: *mut c_void) {
    play([connection.id, connection.id, 0, 0]);
    drop(unsafe { Box::from_raw(state.cast::<u64>()) });
}

unsafe extern "C" fn connection_hook(
    connection: AbiConnection,
    _: *mut c_void,
    _: *mut c_void,
    _: i32,
) -> i32 {
    play([connection.id; 4]);
    PROGRAM.with_borrow_mut(Program::small)
}

unsafe extern "C" fn record(_: *mut c_void, _: i32, line: AbiText) -> i32 {
    play([1, 2, 3, 4]);
    read(line);
    result::OK
}

unsafe extern "C" fn records_done(_: *mut c_void) {
    play([1, 2, 3, 4]);
}

unsafe extern "C" fn balancer_new(
    balancer: AbiBalancer,
    _: *mut c_void,
    _: usize,
    state: *mut *mut c_void,
) -> i32 {
    play([0, 0, 0, balancer.id]);
    unsafe { state.write(Box::into_raw(Box::new(4_u64)).cast()) };
    result::OK
}

unsafe extern "C" fn balancer_free(_: *mut c_void, state: *mut c_void) {
    play([1, 2, 3, 4]);
    drop(unsafe { Box::from_raw(state.cast::<u64>()) });
}

unsafe extern "C" fn balancer_pick(
    balancer: AbiBalancer,
    _: *mut c_void,
    _: *mut c_void,
    index: *mut usize,
) -> i32 {
    play([balancer.id; 4]);
    PROGRAM.with_borrow_mut(|program| {
        unsafe { index.write(usize::from(program.byte() % 4)) };
        program.small()
    })
}

/// Reads what was lent, to its end.
fn read(text: AbiText) {
    if !text.data.is_null() {
        let bytes = unsafe { std::slice::from_raw_parts(text.data, text.size) };
        std::hint::black_box(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    }
}

/// Calls the host as the program says. A function that returns something else than OK has written nothing.
fn play(handles: [u64; 4]) {
    let mut program = PROGRAM.take();
    let calls = usize::from(program.byte()) % CALLS;
    for _ in 0..calls {
        call(&mut program, handles);
    }
    PROGRAM.set(program);
}

#[allow(clippy::too_many_lines, reason = "one line for each function of the host")]
fn call(program: &mut Program, [request, connection, config, balancer]: [u64; 4]) {
    let host = HOST.get().expect("the library was loaded");
    let room: Vec<u8> = (0..program.byte()).map(|_| program.byte()).collect();
    let request = AbiRequest { id: program.handle(request) };
    let connection = AbiConnection { id: program.handle(connection) };
    let config = AbiConfig { id: program.handle(config) };
    let balancer = AbiBalancer { id: program.handle(balancer) };
    let (one, two, three) = (program.text(&room), program.text(&room), program.text(&room));
    let (small, count) = (program.small(), program.number());
    let mut lent = AbiText::NONE;
    let mut ticket = AbiTicket { id: count, generation: 0 };
    let (mut number, mut size, mut large) = (0_u32, 0_usize, 0_u64);
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
    let code = match program.byte() % 36 {
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
        30 => host!(endpoint_fact(balancer, index, small, place)),
        31 => host!(endpoint_number(balancer, index, small, program.place(&mut large))),
        32 => host!(endpoint_open(balancer, index)),
        33 => host!(pick_hash(balancer, program.place(&mut large))),
        34 => host!(pick_random(balancer, count, program.place(&mut large))),
        _ => host!(resume(AbiTicket { id: program.number(), generation: program.number() })),
    };
    assert!((result::INTERNAL + 1..=result::NOT_FOUND).contains(&code), "{code}");
    if code == result::OK {
        read(lent);
    }
}
