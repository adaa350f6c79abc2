//! Looks up the tier of a user on a thread of its own, while the request waits, and remembers it.
//!
//! ```sh
//! cargo build --release -p sluice-sdk --example tier    # target/release/examples/libtier.so
//! ```
//!
//! ```yaml
//! filters:
//!   - module: { library: ./libtier.so, config: /etc/sluice/tiers }    # lines with a user and a tier
//! ```
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_sdk::{Config, Filter, Hook, Level, Part, Request, Response, Step, Ticket};

/// The most questions that wait for the thread.
const QUESTIONS_MAX: usize = 1024;

/// The most users that are remembered. Clients choose the names.
const USERS_MAX: usize = 10_000;

/// Tiers by user; `None` for a user that has none.
type Known = Arc<Mutex<HashMap<String, Option<String>>>>;

struct Tier {
    known: Known,
    ask: SyncSender<(String, Ticket)>,
    asked: u32,
}

impl Filter for Tier {
    type State = String;

    fn new(config: &mut Config<'_>, _: &str, file: &str) -> Result<Self, String> {
        let file = file.to_owned();
        std::fs::metadata(&file).map_err(|error| format!("cannot read {file}: {error}"))?;
        let asked = config.counter("asked").map_err(|error| error.to_string())?;
        let known = Known::default();
        let (ask, questions) = sync_channel::<(String, Ticket)>(QUESTIONS_MAX);
        let answers = Arc::clone(&known);
        // It ends when the filter is dropped, which has the other end.
        std::thread::spawn(move || {
            for (user, ticket) in questions {
                let text = std::fs::read_to_string(&file).unwrap_or_else(|error| {
                    sluice_sdk::log(Level::Warn, &format!("cannot read {file}: {error}"));
                    String::new()
                });
                let lines = text.lines().filter_map(|line| line.split_once(' '));
                let tier =
                    lines.filter(|(of, _)| *of == user).map(|(_, tier)| tier.to_owned()).next();
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                if answers.len() >= USERS_MAX {
                    answers.clear();
                }
                answers.insert(user, tier);
                drop(answers);
                ticket.resume();
            }
        });
        Ok(Self { known, ask, asked })
    }

    fn begin(&self, _: &mut Request<'_>) -> String {
        String::new()
    }

    fn request_headers(&self, user: &mut String, request: &mut Request<'_>, _: bool) -> Step {
        let named = request.get(Part::RequestHeaders, "x-user").ok().flatten().unwrap_or_default();
        *user = String::from_utf8_lossy(named).into_owned();
        if self.tier(user).is_some() {
            return self.decide(user, request);
        }
        let Ok(ticket) = request.suspend() else { return Step::Fail };
        match self.ask.try_send((user.clone(), ticket)) {
            Ok(()) => Step::Wait,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                request.respond(&Response {
                    status: 503,
                    body: b"try again\n",
                    details: "too many questions",
                    ..Response::default()
                })
            }
        }
    }

    fn resumed(&self, user: &mut String, request: &mut Request<'_>, _: Hook) -> Step {
        if request.count(self.asked, 1).is_err() {
            return Step::Fail;
        }
        self.decide(user, request)
    }
}

impl Tier {
    fn tier(&self, user: &str) -> Option<Option<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned()
    }

    fn decide(&self, user: &str, request: &mut Request<'_>) -> Step {
        let Some(tier) = self.tier(user).flatten() else {
            return request.respond(&Response {
                status: 403,
                headers: &[("x-tier", "none")],
                body: b"no tier\n",
                details: "no tier",
            });
        };
        let set = request.set(Part::RequestHeaders, "x-tier", &tier);
        match set.and_then(|()| request.set_value("tier", &tier)) {
            Ok(()) => Step::Continue,
            Err(_) => Step::Fail,
        }
    }
}

sluice_sdk::module!("tier 1.0", Tier);
