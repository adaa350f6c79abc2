//! Limits that a Redis server counts for a whole fleet.
//!
//! Owns: the script that counts, the keys, how replies are read. Refuses to know: the connection, and what becomes of a
//! request. Keeps: a key has a fixed length, whatever the client sends, and ends by itself; two limits share a key only if
//! they have the same name, given by the operator.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use sluice_core::{LocalFuture, Moment, Reason};
use sluice_io::WorkerCx;

use super::{Counted, RateLimit, RateWindow};
use crate::reasons;
use crate::side_calls::SideCalls;
use crate::side_calls::redis::line::{RedisLine, RedisServer};
use crate::side_calls::redis::resp::RespValue;
use crate::side_calls::redis::script::{RedisScript, ScriptCall};

/// Counts a request; see there.
static COUNT: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("count.lua")));

/// The count of a limit at a server.
#[derive(Debug)]
pub(super) struct SharedCounter {
    line: Rc<RedisLine>,
    timeout: Duration,
    /// What the keys begin with.
    prefix: String,
    /// What the digest in a key begins with: which limit it is of.
    limit: Vec<u8>,
    window: Duration,
    sliding: bool,
}

/// The answer of the server to come.
pub(super) type FleetAnswer = LocalFuture<Result<Counted, Reason>>;

impl SharedCounter {
    /// The count of the limit of that name; one without a name of its own is that of its owner alone.
    pub(super) fn new(
        server: &RedisServer,
        settings: &RateLimit,
        name: &str,
        owner: &str,
        worker: &Rc<WorkerCx>,
    ) -> Self {
        let redis = settings.redis.as_deref();
        let prefix = redis.map_or("sluice", |redis| &redis.prefix);
        let owner = if settings.name.is_some() { "" } else { owner };
        let (window, sliding) = (settings.requests.per, settings.window == RateWindow::Sliding);
        let limit = format!("{owner}\0{name}\0{}\0{sliding}\0", window.as_secs());
        Self {
            line: RedisLine::of(worker, server),
            timeout: redis.map_or(Duration::from_millis(20), |redis| redis.timeout),
            prefix: format!("{prefix}:{name}:"),
            limit: limit.into_bytes(),
            window,
            sliding,
        }
    }

    /// Asks about a request with this key, of which `count` are allowed in the window.
    pub(super) fn ask(
        &self,
        calls: &SideCalls,
        now: Moment,
        count: u32,
        key: &[u8],
    ) -> FleetAnswer {
        if count == 0 {
            let all = Counted { excess: Some(self.window), left: 0, reset: self.window };
            return Box::pin(std::future::ready(Ok(all)));
        }
        let (window, sliding) = (self.window.as_micros(), u8::from(self.sliding));
        let call = ScriptCall {
            key: self.key(key),
            arguments: vec![count.to_string(), window.to_string(), sliding.to_string()],
        };
        let ran = calls.run_script(&self.line, &COUNT, call, now.after(self.timeout));
        Box::pin(async move {
            let reply = ran.await.map_err(|error| error.why)?;
            read(&reply).ok_or(reasons::SIDE_CALL_REDIS)
        })
    }

    fn key(&self, of: &[u8]) -> Vec<u8> {
        let digest = digest(&SHA256, &[&self.limit, of].concat());
        let digest = digest.as_ref().get(..16).unwrap_or_default();
        format!("{}{}", self.prefix, BASE64URL_NOPAD.encode(digest)).into_bytes()
    }
}

/// Reads what the script returns.
fn read(reply: &RespValue) -> Option<Counted> {
    let RespValue::List(values) = reply else { return None };
    let [
        RespValue::Integer(allowed),
        RespValue::Integer(left),
        RespValue::Integer(wait),
        RespValue::Integer(reset),
    ] = values.as_slice()
    else {
        return None;
    };
    let micros = |value: i64| Duration::from_micros(u64::try_from(value).unwrap_or(0));
    Some(Counted {
        excess: (*allowed == 0).then(|| micros(*wait)),
        left: u32::try_from(*left).unwrap_or(0),
        reset: micros(*reset),
    })
}

/// Waits for all, and returns what they come to in their order.
pub(super) async fn all_of<T>(mut asked: Vec<LocalFuture<T>>) -> Vec<T> {
    let mut came: Vec<Option<T>> = asked.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, value) in asked.iter_mut().zip(&mut came) {
            if value.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *value = Some(ready);
            }
        }
        if came.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    came.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_script_returns_is_a_decision() {
        let numbers = |all: &[i64]| {
            RespValue::List(all.iter().map(|number| RespValue::Integer(*number)).collect())
        };
        let yes = Counted { excess: None, left: 4, reset: Duration::from_secs(2) };
        assert_eq!(read(&numbers(&[1, 4, 0, 2_000_000])), Some(yes));
        let no = Counted { excess: Some(Duration::from_micros(7)), left: 0, reset: Duration::ZERO };
        assert_eq!(read(&numbers(&[0, -1, 7, -3])), Some(no));
        for reply in [
            numbers(&[]),
            numbers(&[1, 2, 3]),
            numbers(&[1, 2, 3, 4, 5]),
            RespValue::Nil,
            RespValue::Integer(1),
            RespValue::List(vec![RespValue::Nil; 4]),
        ] {
            assert_eq!(read(&reply), None, "{reply:?}");
        }
    }
}
