//! Scripts that filters run on a Redis server.
//!
//! Owns: what a run of a script has in common with other side calls: its bounds, its record, its metrics; below it the
//! protocol, and a connection per worker and server. Refuses to know: what the script does. Keeps: a server that does not
//! know the script gets it once; any other error ends the call.

use std::rc::Rc;

use sluice_core::{LocalFuture, Moment};
use sluice_io::timers::Timer;

use self::line::RedisLine;
use self::resp::RespValue;
use self::script::{RedisScript, ScriptCall, is_unknown};
use super::permits::SideCallPermits;
use super::{SideCallError, SideCalls};
use crate::reasons;

pub(crate) mod line;
pub mod resp;
pub(crate) mod script;

impl SideCalls {
    /// Runs a script until `by` at the latest; the commands of one turn are sent together. Dropping the future does not
    /// take back what has been sent.
    ///
    /// # Errors
    /// Why there is no reply; a reply that is an error is one, too.
    pub(crate) fn run_script(
        &self,
        line: &Rc<RedisLine>,
        script: &'static RedisScript,
        with: ScriptCall,
        by: Moment,
    ) -> LocalFuture<Result<RespValue, SideCallError>> {
        let (calls, line) = (self.clone(), Rc::clone(line));
        Box::pin(async move {
            let mut call = calls.begin(line.cluster());
            call.attempts.set(1);
            let ended = calls.run_in_time(&line, script, &with, by).await;
            call.end = Some(ended.as_ref().map(|_| 200).map_err(Clone::clone));
            ended
        })
    }

    async fn run_in_time(
        &self,
        line: &RedisLine,
        script: &RedisScript,
        with: &ScriptCall,
        by: Moment,
    ) -> Result<RespValue, SideCallError> {
        let worker = &self.worker;
        let _permit = SideCallPermits::enter(worker, self.hops.side_calls)?;
        let (began, by) = (worker.now(), self.latest(by));
        let running = async {
            let reply = self.ask(line, script.by_digest(with)).await?;
            let reply = match is_unknown(&reply) {
                true => self.ask(line, script.whole(with)).await?,
                false => reply,
            };
            match reply {
                RespValue::Error(what) => {
                    Err(SideCallError { why: reasons::SIDE_CALL_REDIS, detail: Some(what) })
                }
                reply => Ok(reply),
            }
        };
        let ran = Timer::new(&worker.timers).until(by, running).await;
        ran.unwrap_or_else(|_| Err(self.late(began)))
    }

    async fn ask(&self, line: &RedisLine, command: Vec<u8>) -> Result<RespValue, SideCallError> {
        let replied = line.ask(&self.worker, command)?.await;
        replied.unwrap_or_else(|_| {
            let detail = Some("the connection was given up".into());
            Err(SideCallError { why: reasons::UPSTREAM_CUT, detail })
        })
    }
}
