//! Scripts that call what they are given with anything, as bytes say: for tests and fuzzers.
//!
//! Owns: the scripts, and the request or connection that they see. Refuses to know: where the bytes come from. Keeps: whatever is
//! called, the worker does not panic, an error that a script catches is a text, and what it leaves behind can be sent.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlua::Thread;
use sluice_codec::Head;
use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::{Clock, Name};
use sluice_io::WorkerCx;
use sluice_l7::filters::{SolitaryRequest, WholeMessage};
use sluice_upstream::Cluster;

use crate::connection_run::{ConnExposed, ConnRun, ScriptedConn};
use crate::decisions::{WaitAnswer, answer};
use crate::exposed::{Exposed, FreeValues};
use crate::failure::{FailureKind, ScriptFailure};
use crate::kind::ScriptKind;
use crate::limits::ScriptLimits;
use crate::metrics::ScriptCounts;
use crate::side::{Input, MessageAtHand, Parked, ScriptRun};
use crate::state::{LuaState, RunOutcome, WaitedFor};

mod calls;

pub(crate) use calls::{CONNECTION, HANDLE};

const PRELUDE: &str = include_str!("hostile.lua");

/// The most calls of one run.
const CALLS: usize = 48;

/// The pieces of a body.
const PIECES: u32 = 3;

/// The bytes that are left.
#[derive(Debug)]
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn one_of<'v>(&mut self, of: &[&'v str]) -> &'v str {
        of.get(usize::from(self.byte()) % of.len().max(1)).copied().unwrap_or("nil")
    }

    /// The calls of a function of a script.
    fn calls(&mut self, methods: &[(&str, &[&str])]) -> String {
        let mut text = String::new();
        for _ in 0..CALLS {
            if self.0.is_empty() {
                break;
            }
            let from = self.byte();
            let line = match from % 16 {
                0 => format!("each(object({from}))"),
                1 => format!("step({from})"),
                _ => self.call(methods, from),
            };
            let _ = writeln!(text, "  {line}");
        }
        text
    }

    fn call(&mut self, methods: &[(&str, &[&str])], from: u8) -> String {
        let (name, sound) = methods[usize::from(self.byte()) % methods.len()];
        let receiver = match self.byte() {
            0..=9 => self.one_of(calls::VALUES).to_owned(),
            10..=39 => format!("stale('{name}', {from})"),
            _ => format!("current('{name}', {from})"),
        };
        let arguments = match self.byte() {
            0..=15 => usize::from(self.byte() % 9),
            _ => sound.len(),
        };
        let mut text = format!("try({receiver}, '{name}'");
        for place in 0..arguments {
            let value = match (self.byte(), sound.get(place)) {
                (0..=199, Some(value)) => value,
                _ => self.one_of(calls::VALUES),
            };
            // A call that nothing waits for would go on after the request, which has no exchange to do it.
            let value = if name == "httpCall" && value == "true" { "false" } else { value };
            text = text + ", " + value;
        }
        text + ")"
    }
}

/// Runs a program as a script for requests, then as one for connections; returns the methods that succeeded.
///
/// # Panics
/// If a script does what no script may.
pub fn run(program: &[u8]) -> BTreeSet<String> {
    let worker = WorkerCx::solitary(Clock::held());
    let mut succeeded = of_requests(program, &worker);
    succeeded.extend(of_connections(program, &worker));
    succeeded
}

fn limits() -> ScriptLimits {
    ScriptLimits { cpu: Duration::from_secs(3600), ..ScriptLimits::default() }
}

fn load(kind: ScriptKind, text: &str) -> LuaState {
    LuaState::load(kind, "a.lua", text.as_bytes(), limits()).expect("the script can be loaded")
}

/// Scripts run out of what they may use; all else they catch themselves.
fn bear(failure: &ScriptFailure, text: &str) {
    assert_ne!(failure.kind, FailureKind::Error, "{}\n{text}", failure.message);
}

fn of_requests(program: &[u8], worker: &Rc<WorkerCx>) -> BTreeSet<String> {
    let mut rest = Program(program);
    let [first, second] = [(); 2].map(|()| rest.calls(HANDLE));
    let text = format!(
        "{PRELUDE}\nfunction envoy_on_request(handle)\n  begin(handle)\n{first}end\n\
         function envoy_on_response(handle)\n  begin(handle)\n{second}end\n"
    );
    let state = load(ScriptKind::Requests, &text);
    let ends = program.len().is_multiple_of(3);
    let values = serde_json::json!({ "x": { "a": [1, 2.5, true, null, "b"] } });
    let values = FreeValues(values.as_object().cloned().unwrap_or_default());
    let exposed = Exposed {
        name: "a.lua".into(),
        clusters: vec![Arc::new(Cluster::vacant("side".into()))],
        context: values.clone(),
        metadata: values,
        reroute: true,
    };
    let (exposed, script, mut responds) = (Arc::new(exposed), text, false);
    // The second request has the objects of the first at hand.
    for _ in 0..2 {
        let head = Head::request("POST", "http", "a.test", "/a?b=1");
        let request = SolitaryRequest::new(worker, &head);
        let (state, exposed, text) = (&state, &exposed, &*script);
        let mut exchange = HostileRun { state, exposed, request, ends, text, responds: false };
        exchange.side(false, head.clone(), &head);
        let mut response = Head::response(200);
        response.append(b"x-a", b"1");
        exchange.side(true, response, &head);
        responds |= exchange.responds;
    }
    // It does not return to the script.
    let respond = responds.then(|| "respond".to_owned());
    state.names("succeeded").into_iter().chain(respond).collect()
}

/// A request, its response, and the script that runs on both.
struct HostileRun<'a> {
    state: &'a LuaState,
    exposed: &'a Arc<Exposed>,
    request: SolitaryRequest,
    /// Whether messages end with their heads.
    ends: bool,
    text: &'a str,
    /// The script has responded.
    responds: bool,
}

/// What of a message a script sees next.
enum NextPart {
    Whole,
    Piece(u32),
    Trailers,
}

impl HostileRun<'_> {
    /// Runs the script of a message from its head on, as far as it waits for more.
    fn side(&mut self, response: bool, mut head: Head, sent: &Head) {
        let Ok((thread, id)) = self.state.coroutine() else { return };
        let mut trailers = Head::default();
        trailers.append(b"x-t", b"1");
        let start = Input::Start { response, id };
        let mut at = MessageAtHand::Head(&mut head);
        let mut next = self.part(&thread, id, response, &mut at, start, response.then_some(sent));
        assert!(head.is_sound(), "{}", self.text);
        let mut whole = WholeMessage {
            head: Box::new(head),
            body: Bytes::from_static(b"0123456789"),
            trailers: None,
        };
        while let Some((part, input)) = next {
            let mut at = match part {
                NextPart::Whole => MessageAtHand::Whole(&mut whole),
                NextPart::Piece(number) => {
                    MessageAtHand::Chunk(Bytes::from_static(b"01234"), number == PIECES)
                }
                NextPart::Trailers => MessageAtHand::Trailers(&mut trailers),
            };
            next = self.part(&thread, id, response, &mut at, input, Some(sent));
        }
        assert!(whole.head.is_sound() && trailers.is_sound(), "{}", self.text);
    }

    /// Runs it in one hook; returns the part that it waits for.
    fn part(
        &mut self,
        thread: &Thread,
        id: u64,
        response: bool,
        message: &mut MessageAtHand<'_>,
        mut input: Input,
        sent: Option<&Head>,
    ) -> Option<(NextPart, Input)> {
        let (state, plan, text, ends) = (self.state, self.exposed, self.text, self.ends);
        let chunk = match input {
            Input::Chunk(number) => number,
            _ => 0,
        };
        loop {
            let (outcome, called) = self.request.hook(sent, ends, |cx| {
                let (reply, call, logged) = Default::default();
                let mut run =
                    ScriptRun { cx, message, plan, id, response, chunk, reply, call, logged };
                let outcome = state.resume(thread, input, &mut run);
                if let Some(reply) = &run.reply {
                    assert!((200..=599).contains(&reply.status), "{text}");
                }
                (outcome, run.call.is_some())
            });
            let wanted = match outcome {
                RunOutcome::Done => return None,
                RunOutcome::Respond => {
                    self.responds = true;
                    return None;
                }
                RunOutcome::Failed(failure) => {
                    bear(&failure, text);
                    return None;
                }
                RunOutcome::Wait(WaitedFor::Call) if called => {
                    let headers = [(":status", "200"), ("a", "1"), ("a", "2")];
                    let headers = headers.map(|(name, value)| (name.into(), value.into())).into();
                    input = Input::Called { headers, body: Bytes::from_static(b"body") };
                    continue;
                }
                RunOutcome::Wait(wanted) => wanted,
            };
            input = match answer(wanted, message, ends) {
                WaitAnswer::Now(input) => input,
                WaitAnswer::Buffer => return Some((NextPart::Whole, Input::Present(true))),
                WaitAnswer::Park(Parked::Chunk) if chunk < PIECES => {
                    return Some((NextPart::Piece(chunk + 1), Input::Chunk(chunk + 1)));
                }
                WaitAnswer::Park(Parked::Chunk) => {
                    return Some((NextPart::Trailers, Input::Nothing));
                }
                WaitAnswer::Park(_) => return Some((NextPart::Trailers, Input::Present(true))),
            };
        }
    }
}

fn of_connections(program: &[u8], worker: &Rc<WorkerCx>) -> BTreeSet<String> {
    let mut rest = Program(program);
    let [first, second] = [(); 2].map(|()| rest.calls(CONNECTION));
    let text = format!(
        "{PRELUDE}\nfunction on_connection(conn)\n  begin(conn)\n{first}end\n\
         function on_data(conn, bytes)\n  begin(conn)\n{second}  return bytes\nend\n"
    );
    let state = load(ScriptKind::Connections, &text);
    let info = ConnInfo::new(1, "solitary".into(), Peer::Unix, Peer::Unknown, worker.now());
    let counts = ScriptCounts::new(worker, "solitary", "a.lua");
    let names: [Name; 1] = ["seen".into()];
    let with = ConnExposed {
        script: "a.lua",
        context: &FreeValues::default(),
        names: &names,
        counters: &[counts.own("seen")],
        worker,
    };
    for _ in 0..2 {
        let conn = ScriptedConn::of(&info);
        let Ok(kept) = state.table() else { break };
        for bytes in [None, Some(&program[..program.len().min(64)])] {
            let mut run = ConnRun::new(&conn, with, bytes.is_none());
            match state.call_hook(bytes, &kept, &mut run) {
                Ok(returned) => {
                    let returned = returned.map(|text| text.as_bytes().to_vec());
                    assert_eq!(returned.as_deref(), bytes, "{text}");
                }
                Err(failure) => bear(&failure, &text),
            }
            drop(run.shared());
        }
    }
    state.names("succeeded")
}
