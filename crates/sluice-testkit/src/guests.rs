//! Guests in WebAssembly for tests, made from the bodies of their functions.
//!
//! Owns: the text around these bodies, with the functions of the host and helpers. Refuses to know: what a guest is for. Keeps: a
//! body is WebAssembly text, in which a text in quotes stands for its place and its length.

use std::fmt::Write as _;

/// The functions of the host that guests import, with their parameters; each returns a status.
const IMPORTS: &[(&str, &str)] = &[
    ("log", "i32 i32 i32"),
    ("get_property", "i32 i32 i32 i32"),
    ("set_property", "i32 i32 i32 i32"),
    ("continue_stream", "i32"),
    ("close_stream", "i32"),
    ("send_local_response", "i32 i32 i32 i32 i32 i32 i32 i32"),
    ("call_foreign_function", "i32 i32 i32 i32 i32 i32"),
    ("set_effective_context", "i32"),
    ("set_tick_period_milliseconds", "i32"),
    ("get_current_time_nanoseconds", "i32"),
    ("get_header_map_value", "i32 i32 i32 i32 i32"),
    ("add_header_map_value", "i32 i32 i32 i32 i32"),
    ("replace_header_map_value", "i32 i32 i32 i32 i32"),
    ("remove_header_map_value", "i32 i32 i32"),
    ("get_header_map_pairs", "i32 i32 i32"),
    ("set_header_map_pairs", "i32 i32 i32"),
    ("get_header_map_size", "i32 i32"),
    ("get_buffer_bytes", "i32 i32 i32 i32 i32"),
    ("get_buffer_status", "i32 i32 i32"),
    ("set_buffer_bytes", "i32 i32 i32 i32 i32"),
    ("http_call", "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32"),
    ("get_shared_data", "i32 i32 i32 i32 i32"),
    ("set_shared_data", "i32 i32 i32 i32 i32"),
    ("register_shared_queue", "i32 i32 i32"),
    ("resolve_shared_queue", "i32 i32 i32 i32 i32"),
    ("enqueue_shared_queue", "i32 i32 i32"),
    ("dequeue_shared_queue", "i32 i32 i32"),
    ("define_metric", "i32 i32 i32 i32"),
    ("increment_metric", "i32 i64"),
    ("record_metric", "i32 i64"),
    ("get_metric", "i32 i32"),
    ("grpc_call", "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32"),
    ("grpc_stream", "i32 i32 i32 i32 i32 i32 i32 i32 i32"),
    ("grpc_send", "i32 i32 i32 i32"),
    ("grpc_cancel", "i32"),
    ("grpc_close", "i32"),
    ("get_status", "i32 i32 i32"),
];

/// The functions of a guest, with their parameters, and what they return unless they say otherwise.
const HOOKS: &[(&str, &str, Option<i32>)] = &[
    ("vm_start", "context size", Some(1)),
    ("configure", "context size", Some(1)),
    ("context_create", "context root", None),
    ("tick", "context", None),
    ("queue_ready", "context queue", None),
    ("request_headers", "context count end", Some(0)),
    ("request_body", "context size end", Some(0)),
    ("request_trailers", "context count", Some(0)),
    ("response_headers", "context count end", Some(0)),
    ("response_body", "context size end", Some(0)),
    ("response_trailers", "context count", Some(0)),
    ("http_call_response", "context token headers size trailers", None),
    ("new_connection", "context", Some(0)),
    ("downstream_data", "context size end", Some(0)),
    ("upstream_data", "context size end", Some(0)),
    ("downstream_connection_close", "context how", None),
    ("upstream_connection_close", "context how", None),
    ("grpc_receive_initial_metadata", "context token headers", None),
    ("grpc_receive", "context token size", None),
    ("grpc_receive_trailing_metadata", "context token trailers", None),
    ("grpc_close", "context token status", None),
    ("done", "context", Some(1)),
    ("log", "context", None),
    ("delete", "context", None),
];

/// Memory of the host's answers, and helpers: `$get` returns a status and leaves the value in `$at` and `$len`; `$tell` adds a
/// header with a number, `$say` one with what is in `$at` and `$len`; `$map` is the map that they add to. `$put` appends a text to a
/// buffer, `$digit` a number below ten.
const HELPERS: &str = r#"
(memory (export "memory") 16)
(global $heap (mut i32) (i32.const 131072))
(global $at (mut i32) (i32.const 0))
(global $len (mut i32) (i32.const 0))
(global $map (mut i32) (i32.const 0))
(func $allocate (export "proxy_on_memory_allocate") (param $n i32) (result i32)
  (if (i32.gt_u (i32.add (global.get $heap) (local.get $n)) (i32.const 1048576))
    (then (global.set $heap (i32.const 131072))))
  (global.get $heap)
  (global.set $heap (i32.add (global.get $heap) (i32.and (i32.add (local.get $n) (i32.const 7)) (i32.const -8)))))
(func $taken (param $status i32) (result i32)
  (global.set $at (i32.load (i32.const 16))) (global.set $len (i32.load (i32.const 20)))
  (if (local.get $status) (then (global.set $len (i32.const 0))))
  (local.get $status))
(func $get (param $map i32) (param $name i32) (param $n i32) (result i32)
  (call $taken (call $get_header_map_value (local.get $map) (local.get $name) (local.get $n) (i32.const 16) (i32.const 20))))
(func $property (param $path i32) (param $n i32) (result i32)
  (call $taken (call $get_property (local.get $path) (local.get $n) (i32.const 16) (i32.const 20))))
(func $buffer (param $kind i32) (param $start i32) (param $n i32) (result i32)
  (call $taken (call $get_buffer_bytes (local.get $kind) (local.get $start) (local.get $n) (i32.const 16) (i32.const 20))))
(func $add (param $map i32) (param $name i32) (param $n i32) (param $value i32) (param $v i32)
  (drop (call $add_header_map_value (local.get $map) (local.get $name) (local.get $n) (local.get $value) (local.get $v))))
(func $set (param $map i32) (param $name i32) (param $n i32) (param $value i32) (param $v i32)
  (drop (call $replace_header_map_value (local.get $map) (local.get $name) (local.get $n) (local.get $value) (local.get $v))))
(func $say (param $name i32) (param $n i32)
  (call $add (global.get $map) (local.get $name) (local.get $n) (global.get $at) (global.get $len)))
(func $tell (param $name i32) (param $n i32) (param $number i32) (local $at i32)
  (local.set $at (i32.const 64))
  (loop $digit
    (local.set $at (i32.sub (local.get $at) (i32.const 1)))
    (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
    (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
    (br_if $digit (local.get $number)))
  (call $add (global.get $map) (local.get $name) (local.get $n) (local.get $at) (i32.sub (i32.const 64) (local.get $at))))
(func $put (param $buffer i32) (param $text i32) (param $n i32)
  (drop (call $set_buffer_bytes (local.get $buffer) (i32.const 100000000) (i32.const 0) (local.get $text) (local.get $n))))
(func $digit (param $buffer i32) (param $number i32)
  (i32.store8 (i32.const 64) (i32.add (i32.const 48) (local.get $number)))
  (call $put (local.get $buffer) (i32.const 64) (i32.const 1)))
(func $respond (param $status i32) (param $body i32) (param $n i32)
  (drop (call $send_local_response (local.get $status) (i32.const 0) (i32.const 0) (local.get $body) (local.get $n) (i32.const 0) (i32.const 0) (i32.const -1))))
(func $is (param $text i32) (param $n i32) (result i32) (local $i i32)
  (if (i32.lt_u (global.get $len) (local.get $n)) (then (return (i32.const 0))))
  (loop $next
    (if (i32.ge_u (local.get $i) (local.get $n)) (then (return (i32.const 1))))
    (if (i32.ne (i32.load8_u (i32.add (global.get $at) (local.get $i))) (i32.load8_u (i32.add (local.get $text) (local.get $i))))
      (then (return (i32.const 0))))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br $next))
  (i32.const 0))
"#;

/// The module in WebAssembly text.
///
/// # Panics
/// It is none.
#[allow(clippy::expect_used, reason = "a test fails by panicking")]
pub fn module(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A guest of functions: each line without a parenthesis at its beginning is the name of one, those below it are its body. What
/// stands before the first belongs to the module; `only /PATH` is the beginning of the paths that functions for messages run for.
pub fn guest(text: &str) -> Vec<u8> {
    module(&guest_text(text))
}

/// [`guest`], before it is compiled.
#[allow(clippy::expect_used, reason = "a test fails by panicking")]
fn guest_text(text: &str) -> String {
    let mut texts = Texts::default();
    let mut only = None;
    let mut parts: Vec<(&str, String)> = vec![("", String::new())];
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(path) = line.strip_prefix("only ") {
            only = Some(texts.place(path));
        } else if line.starts_with(['(', ')', ';']) {
            let part = parts.last_mut().expect("there is one from the beginning");
            part.1 += &(texts.replace(line) + "\n");
        } else {
            parts.push((line, String::new()));
        }
    }
    let path = texts.place(":path");
    let mut out = String::from("(module\n");
    for (name, params) in IMPORTS {
        let _ = writeln!(
            out,
            "(import \"env\" \"proxy_{name}\" (func ${name} (param {params}) (result i32)))"
        );
    }
    out += HELPERS;
    out += "(func (export \"proxy_abi_version_0_2_1\"))\n";
    for (name, body) in &parts {
        if name.is_empty() {
            out += body;
            continue;
        }
        let hook = HOOKS.iter().find(|(known, ..)| known == name);
        let (_, params, result) = hook.unwrap_or_else(|| panic!("what is `{name}`?"));
        let params: String =
            params.split(' ').map(|param| format!("(param ${param} i32) ")).collect();
        let _ = write!(out, "(func (export \"proxy_on_{name}\") {params}");
        if result.is_some() {
            out += "(result i32)";
        }
        out.push('\n');
        let response = name.starts_with("response");
        if response || name.starts_with("request") {
            let map = if response { 2 } else { 0 };
            let _ = writeln!(out, "(global.set $map (i32.const {map}))");
            if let Some(only) = &only {
                let _ = writeln!(
                    out,
                    "(drop (call $get (i32.const 0) {path}))\n(if (i32.eqz (call $is {only})) (then (return (i32.const 0))))"
                );
            }
        }
        out += body;
        if let Some(result) = result {
            let _ = writeln!(out, "(i32.const {result})");
        }
        out += ")\n";
    }
    out + &texts.data + ")"
}

/// Texts in the memory of a guest.
#[derive(Debug, Default)]
struct Texts {
    data: String,
    used: usize,
}

impl Texts {
    /// Where they begin.
    const FROM: usize = 1024;

    /// The place and the length of a text.
    fn place(&mut self, text: &str) -> String {
        let at = Self::FROM + self.used;
        let bytes: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
        let _ = writeln!(self.data, "(data (i32.const {at}) \"{bytes}\")");
        self.used += text.len() + 1;
        format!("(i32.const {at}) (i32.const {})", text.len())
    }

    /// A line with texts in place of quotes; `\0` is a zero byte, `\n` ends a line.
    fn replace(&mut self, line: &str) -> String {
        let mut out = String::new();
        for (index, part) in line.split('"').enumerate() {
            match index % 2 {
                0 => out += part,
                _ => out += &self.place(&part.replace("\\0", "\0").replace("\\n", "\n")),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_a_module() {
        let bytes = guest(
            "(global $n (mut i32) (i32.const 0))\nonly /a\nrequest_headers\n(call $add (i32.const 0) \"x\" \"y\")\n\
             (return (i32.const 1))\ndone\nlog\n(drop (call $log (i32.const 2) \"over\"))",
        );
        assert!(bytes.starts_with(b"\0asm"));
    }
}
