//! Guests that call what the host has with anything, as bytes say: for tests and fuzzers.
//!
//! Owns: the guest, which runs such bytes as a program, and the requests that it sees. Refuses to know: where the bytes come from.
//! Keeps: whatever a guest calls, the worker does not panic, and what it leaves behind can be sent.
//!
//! The guest imports every function that the host has. A byte of the program selects one, those behind it select its arguments:
//! small numbers, places and lengths of texts, places of results, and what leads out of the memory.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::rc::{Rc, Weak};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::Head;
use sluice_core::Clock;
use sluice_io::WorkerCx;
use sluice_l7::filters::SolitaryRequest;
use sluice_upstream::Cluster;
use wasmtime::{Extern, FuncType, Store, ValType};

use crate::abi::VERSIONS;
use crate::hooks::{self, GuestHook};
use crate::limits::GuestLimits;
use crate::message::{GuestHookCall, GuestMessage};
use crate::module::CompiledModule;
use crate::plugin::{PluginFacts, VmSetup};
use crate::state::{GuestEvents, HostState};
use crate::stream::StreamCell;
use crate::vm::Vm;
use crate::{engine, host};

/// Texts that calls may succeed with, each in a place of [`TEXT_BYTES`]; the last two are pairs of headers.
const TEXTS: [&[u8]; 16] = [
    b"x-a",
    b":path",
    b"/b?c=1",
    b":status",
    b"content-length",
    b"transfer-encoding",
    b"request\0path",
    b"hostile",
    b"plugin_name",
    b"side",
    b"clear_route_cache",
    b"a\r\nb: c",
    b"\xff\xfe",
    b"",
    b"\x01\0\0\0\x03\0\0\0\x01\0\0\0x-b\0y\0",
    b"\x03\0\0\0\x07\0\0\0\x03\0\0\0\x05\0\0\0\x02\0\0\0\x0a\0\0\0\x01\0\0\0:method\0GET\0:path\0/a\0:authority\0a\0",
];

/// The bytes of a place for a text.
const TEXT_BYTES: usize = 128;

/// Where the texts begin; their lengths are at [`LENGTHS`].
const FROM: usize = 4096;
const LENGTHS: usize = 1024;

/// Where the guest notes which functions have succeeded, a byte for each: beyond all that arguments lead to.
const NOTES: u32 = 320_000;

/// The guest without its imports, the functions that call them, and its hooks. `$value` is an argument; the length of a text
/// usually follows its place.
const BODY: &str = r#"
(memory (export "memory") 5 8)
(global $at (mut i32) (i32.const 0))
(global $end (mut i32) (i32.const 0))
(global $pending (mut i32) (i32.const -1))
(global $heap (mut i32) (i32.const 131072))
(func $byte (result i32)
  (if (i32.ge_u (global.get $at) (global.get $end)) (then (return (i32.const 0))))
  (i32.load8_u (global.get $at))
  (global.set $at (i32.add (global.get $at) (i32.const 1))))
(func $value (result i32) (local $b i32) (local $p i32)
  (local.set $b (call $byte))
  (if (i32.ge_s (global.get $pending) (i32.const 0)) (then
    (local.set $p (global.get $pending))
    (global.set $pending (i32.const -1))
    (if (i32.lt_u (local.get $b) (i32.const 232)) (then (return (local.get $p))))))
  (if (i32.lt_u (local.get $b) (i32.const 64)) (then (return (i32.and (local.get $b) (i32.const 15)))))
  (if (i32.lt_u (local.get $b) (i32.const 160)) (then
    (local.set $b (i32.and (local.get $b) (i32.const 15)))
    (global.set $pending (i32.load (i32.add (i32.const 1024) (i32.mul (local.get $b) (i32.const 4)))))
    (return (i32.add (i32.const 4096) (i32.mul (local.get $b) (i32.const 128))))))
  (if (i32.lt_u (local.get $b) (i32.const 240)) (then
    (return (i32.add (i32.const 3072) (i32.mul (local.get $b) (i32.const 4))))))
  (if (i32.lt_u (local.get $b) (i32.const 244)) (then (return (i32.sub (i32.const 327923) (local.get $b)))))
  (if (i32.lt_u (local.get $b) (i32.const 248)) (then (return (i32.const -1))))
  (if (i32.lt_u (local.get $b) (i32.const 250)) (then (return (i32.const 0x7fffffff))))
  (i32.or (i32.shl (call $byte) (i32.const 24)) (i32.or (i32.shl (call $byte) (i32.const 16)) (i32.or (i32.shl (call $byte) (i32.const 8)) (call $byte)))))
(func $allocate (export "proxy_on_memory_allocate") (param $n i32) (result i32)
  (if (i32.and (i32.ne (global.get $end) (i32.const 0)) (i32.gt_u (call $byte) (i32.const 240))) (then (return (call $value))))
  (if (i32.gt_u (i32.add (global.get $heap) (local.get $n)) (i32.const 262144)) (then (global.set $heap (i32.const 131072))))
  (global.get $heap)
  (global.set $heap (i32.add (global.get $heap) (i32.and (i32.add (local.get $n) (i32.const 7)) (i32.const -8)))))
(func $run (local $left i32)
  (local.set $left (i32.const 12))
  (loop $next
    (if (i32.ge_u (global.get $at) (global.get $end)) (then (return)))
    (call $step)
    (global.set $pending (i32.const -1))
    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
    (br_if $next (local.get $left))))
"#;

/// The guest, and the names of the functions that it calls, in the order of their numbers.
struct Hostile {
    module: Arc<CompiledModule>,
    names: Vec<String>,
}

static HOSTILE: LazyLock<Hostile> = LazyLock::new(|| {
    let functions = functions();
    let text = text(&functions);
    let bytes = wat::parse_str(&text).expect("the text is WebAssembly");
    let module = CompiledModule::of(&bytes).expect("the guest can be loaded");
    Hostile { module, names: functions.into_iter().map(|(_, name, _)| name).collect() }
});

fn setup() -> Arc<VmSetup> {
    let limits = GuestLimits { cpu: Duration::from_secs(3600), ..GuestLimits::default() };
    let environment = vec!["A=1".to_owned()];
    Arc::new(VmSetup { id: "hostile".into(), config: Bytes::new(), environment, limits })
}

/// All functions of the host: module, name and form.
fn functions() -> Vec<(String, String, FuncType)> {
    let engine = engine::engine().expect("the engine runs here");
    let linker = host::linker(engine).expect("the functions have names of their own");
    let events: Weak<dyn GuestEvents> = Weak::<Vm>::new();
    let state = HostState::new(&Rc::default(), &setup(), None, events, VERSIONS[0].1);
    let mut store = Store::new(engine, state);
    let all: Vec<(String, String, Extern)> = linker
        .iter(&mut store)
        .map(|(module, name, of)| (module.to_owned(), name.to_owned(), of))
        .collect();
    let form = |(module, name, of): (String, String, Extern)| {
        let form = of.into_func()?.ty(&store);
        Some((module, name, form))
    };
    let mut all: Vec<(String, String, FuncType)> = all.into_iter().filter_map(form).collect();
    all.sort_by(|one, other| (&one.1, &one.0).cmp(&(&other.1, &other.0)));
    all.dedup_by(|one, other| one.1 == other.1);
    all
}

fn text(functions: &[(String, String, FuncType)]) -> String {
    let words = |types: &mut dyn Iterator<Item = ValType>| -> String {
        types.map(|of| format!(" {of}")).collect()
    };
    let mut out = String::from("(module\n");
    for (index, (module, name, form)) in functions.iter().enumerate() {
        let (params, results) = (words(&mut form.params()), words(&mut form.results()));
        let _ = writeln!(
            out,
            "(import \"{module}\" \"{name}\" (func $f{index} (param{params}) (result{results})))"
        );
    }
    out += BODY;
    for (index, (_, _, form)) in functions.iter().enumerate() {
        let values: String = form
            .params()
            .map(|of| match of {
                ValType::I64 => " (i64.extend_i32_s (call $value))",
                _ => " (call $value)",
            })
            .collect();
        let note = u64::from(NOTES) + index as u64;
        let _ = match form.results().len() {
            // It does not return: a guest that called it as often as others would do nothing else.
            0 => writeln!(
                out,
                "(func $c{index} (if (i32.gt_u (call $byte) (i32.const 250)) (then (call $f{index}{values}) (i32.store8 (i32.const {note}) (i32.const 1)))))"
            ),
            _ => writeln!(
                out,
                "(func $c{index} (if (i32.eqz (call $f{index}{values})) (then (i32.store8 (i32.const {note}) (i32.const 1)))))"
            ),
        };
    }
    let count = functions.len();
    out += "(table funcref (elem";
    (0..count).for_each(|index| {
        let _ = write!(out, " $c{index}");
    });
    let _ = writeln!(
        out,
        "))\n(type $call (func))\n(func $step (call_indirect (type $call) (i32.rem_u (call $byte) (i32.const {count}))))"
    );
    for (name, params, results) in hooks::forms() {
        let params = " i32".repeat(params);
        let _ = write!(out, "(func (export \"{name}\") (param{params})");
        // The program is the configuration; an instance and its root context begin in any case.
        let _ = match (name, results) {
            ("proxy_on_configure", _) => writeln!(
                out,
                " (result i32)\n(drop (call $get_configuration (i32.const 7) (i32.const 0) (i32.const -1) (i32.const 16) (i32.const 20)))\n\
                 (global.set $at (i32.load (i32.const 16)))\n\
                 (global.set $end (i32.add (i32.load (i32.const 16)) (i32.load (i32.const 20))))\n\
                 (call $run) (i32.const 1))"
            ),
            ("proxy_on_vm_start", _) => writeln!(out, " (result i32) (i32.const 1))"),
            (_, 0) => writeln!(out, " (call $run))"),
            _ => writeln!(out, " (result i32) (call $run) (i32.and (call $byte) (i32.const 1)))"),
        };
    }
    for (place, text) in TEXTS.iter().enumerate() {
        let bytes: String = text.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let length = text.len();
        let _ = writeln!(
            out,
            "(data (i32.const {}) \"{bytes}\")\n(data (i32.const {}) \"\\{length:02x}\")",
            FROM + place * TEXT_BYTES,
            LENGTHS + place * 4
        );
    }
    let configuration = functions.iter().position(|(_, name, _)| name == "proxy_get_buffer_bytes");
    let configuration = configuration.expect("the host has buffers");
    out += "(func (export \"proxy_abi_version_0_2_1\")))";
    out.replace("$get_configuration", &format!("$f{configuration}"))
}

/// Runs a program in a guest about two requests; returns the functions that succeeded.
///
/// # Panics
/// If a guest does what no guest may.
pub fn run(program: &[u8]) -> BTreeSet<String> {
    let worker = WorkerCx::solitary(Clock::held());
    let plugin = Arc::new(PluginFacts {
        name: "hostile".into(),
        root_id: String::new(),
        config: Bytes::copy_from_slice(program),
        listener: "solitary".into(),
        clusters: vec![Arc::new(Cluster::vacant("side".into()))],
        body_max: 4096,
    });
    // Without a worker: what a guest starts would go on after the request, which has nothing that runs it.
    let vm = Vm::start(&HOSTILE.module, &setup(), None).expect("the instance begins");
    if let Ok(root) = vm.root(&plugin) {
        for _ in 0..2 {
            request(&vm, &root, &worker);
        }
        let _ = vm.ticked(root.id);
        let _ = vm.queue_filled(root.id, 1);
    }
    let notes = vm.peek(NOTES, HOSTILE.names.len());
    let succeeded = HOSTILE.names.iter().zip(notes).filter(|(_, note)| *note != 0);
    succeeded.map(|(name, _)| name.clone()).collect()
}

/// The names of all functions that a guest can call.
pub fn names() -> &'static [String] {
    &HOSTILE.names
}

/// A request and its response, of which the guest sees everything until it fails.
fn request(vm: &Rc<Vm>, root: &Rc<StreamCell>, worker: &Rc<WorkerCx>) {
    let mut sent = Head::request("POST", "http", "a.test", "/a?b=1");
    sent.append(b"x-a", b"1");
    let mut request = SolitaryRequest::new(worker, &sent);
    let mut response = Head::response(200);
    response.append(b"x-a", b"1");
    let mut trailers = Head::default();
    trailers.append(b"x-t", b"1");
    let began = request.hook(None, false, |cx| {
        let message = &mut GuestMessage::Nothing;
        vm.stream(root, &mut GuestHookCall { cx, message, response: false })
    });
    let Ok(cell) = began else { return };
    for of_response in [false, true] {
        let head = if of_response { &mut response } else { &mut sent };
        let mut body = Bytes::from_static(b"0123456789");
        for part in 0..3 {
            let sends = match (part, of_response) {
                (0, false) => GuestHook::RequestHeaders,
                (0, true) => GuestHook::ResponseHeaders,
                (1, false) => GuestHook::RequestBody,
                (1, true) => GuestHook::ResponseBody,
                (_, false) => GuestHook::RequestTrailers,
                (_, true) => GuestHook::ResponseTrailers,
            };
            let mut message = match part {
                0 => GuestMessage::Head(&mut *head),
                1 => GuestMessage::Piece { body: &mut body, editable: true, trailers: None },
                _ => GuestMessage::Trailers(&mut trailers, true),
            };
            let args = [cell.id, 1, u32::from(part == 1)];
            cell.begin(of_response);
            let done = request.hook(None, false, |cx| {
                let message = &mut message;
                let mut call = GuestHookCall { cx, message, response: of_response };
                vm.call(cell.id, sends, &args, &mut call)
            });
            if let Some(reply) = cell.take_reply() {
                assert!((200..=599).contains(&reply.status), "{}", reply.status);
            }
            assert!(head.is_sound() && trailers.is_sound(), "{head:?} {trailers:?}");
            assert!(body.len() <= 4096 + 10, "{} bytes", body.len());
            if done.is_err() {
                break;
            }
        }
    }
    request.hook(None, false, |cx| {
        let message = &mut GuestMessage::Nothing;
        vm.end(&cell, &mut GuestHookCall { cx, message, response: true });
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Those that never return with success: there is no gRPC service, and one ends the guest.
    const NEVER: [&str; 2] = ["proxy_grpc_", "proc_exit"];

    /// Arguments that calls succeed with, where chance does not find them: of `$value`, a byte for each.
    const SOUND: &[(&str, &[u8])] = &[
        ("proxy_get_header_map_value", &[0, 64, 0, 160, 170]),
        ("proxy_add_header_map_value", &[0, 64, 0, 66, 0]),
        ("proxy_replace_header_map_value", &[2, 64, 0, 66, 0]),
        ("proxy_remove_header_map_value", &[0, 64, 0]),
        ("proxy_set_header_map_pairs", &[2, 78, 0]),
        ("proxy_set_buffer_bytes", &[0, 0, 0, 66, 0]),
        ("proxy_call_foreign_function", &[74, 0, 77, 0, 160, 170]),
        ("proxy_define_metric", &[0, 64, 0, 160]),
        ("fd_write", &[1, 77, 0, 160]),
        ("proxy_register_shared_queue", &[64, 0, 160]),
        ("proxy_resolve_shared_queue", &[71, 0, 64, 0, 160]),
        ("proxy_http_call", &[73, 0, 79, 0, 77, 0, 77, 0, 5, 160]),
        ("proxy_send_local_response", &[255, 0, 0, 1, 144, 64, 0, 66, 0, 78, 0, 245]),
    ];

    /// Random bytes, with calls between them that succeed.
    fn program(random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..random.usize(..60) {
            bytes.extend((0..random.usize(..40)).map(|_| random.u8(..)));
            let (name, arguments) = random.choice(SOUND).expect("there are some");
            let function = names().iter().position(|known| known == name).expect("it is one");
            bytes.push(u8::try_from(function).expect("a byte selects a function"));
            bytes.extend_from_slice(arguments);
        }
        bytes
    }

    #[test]
    fn whatever_a_guest_calls_is_an_answer() {
        let seed = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
        let (first, count) = seed.map_or((0, 1500), |seed| (seed, 1));
        let mut succeeded = BTreeMap::<String, u32>::new();
        for seed in first..first + count {
            eprintln!("SLUICE_SEED={seed}");
            for name in run(&program(&mut fastrand::Rng::with_seed(seed))) {
                *succeeded.entry(name).or_default() += 1;
            }
        }
        let never = |name: &String| NEVER.iter().any(|of| name.starts_with(of));
        // A guest that has its notes filled with random bytes claims that all succeeded.
        let is_rare = |name: &String| succeeded.get(name).is_none_or(|count| *count < 5);
        let names = names().iter().filter(|name| !never(name) && is_rare(name));
        let rare: Vec<&String> = names.filter(|_| seed.is_none()).collect();
        assert!(rare.is_empty(), "hardly ever succeed: {rare:?} of {succeeded:?}");
    }
}
