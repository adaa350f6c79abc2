//! Hosts that clients name, looked up when they are first asked for.
//!
//! Owns: the hosts that a cluster knows, their look-ups and their ends. Refuses to know: what is sent to them. Keeps: one
//! look-up of a host at a time, however many wait for it; at most `max_hosts` are known, and a host that nobody uses is
//! forgotten; a host that could not be looked up is not tried again at once.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::Reason;
use sluice_core::value::plural;
use sluice_telemetry::{CounterSet, Gauge, Shard};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::lookup::{Answer, LookupFailure, lookup};
use super::{DnsName, ResolvedAddress, Usable, usable};
use crate::cluster::{Cluster, HostQuestion, Member};
use crate::endpoint::Target;
use crate::forward::{ForwardFailure, ForwardHost};
use crate::metrics;
use crate::name_state::{LookupOutcome, NameState};
use crate::plan::ClusterPlan;
use crate::reasons;

/// The timeout of a look-up, as in Envoy.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Look-ups of one cluster at a time; further ones wait for their turn.
const LOOKUPS_MAX: usize = 128;

/// How often hosts are looked at for their next look-up, or their end.
const TICK: Duration = Duration::from_millis(100);

/// How long a host must have been unused to make room for another before its time.
const MAKES_ROOM: Duration = Duration::from_secs(10);

/// What a look-up came to.
type Found = Result<Usable, LookupFailure>;

/// Answers the questions of workers, until it is dropped. `publish` gets the members when they change.
pub(crate) async fn serve_hosts(
    cluster: Arc<Cluster>,
    mut questions: mpsc::Receiver<HostQuestion>,
    shard: Shard,
    publish: impl Fn(&[Member]),
) {
    let plan = cluster.plan();
    let known = shard.gauge(&metrics::FORWARD_HOSTS, &[&cluster.name]);
    let mut hosts = HostTable {
        cluster,
        plan,
        hosts: HashMap::new(),
        lookups: JoinSet::new(),
        turns: Rc::new(Semaphore::new(LOOKUPS_MAX)),
        full_until: None,
        results: CounterSet::default(),
        known,
        shard,
    };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let changed = tokio::select! {
            question = questions.recv() => match question {
                Some(question) => hosts.ask(question),
                None => return,
            },
            Some(Ok((host, found))) = hosts.lookups.join_next() => hosts.looked_up(&host, found),
            _ = tick.tick(), if !hosts.hosts.is_empty() => hosts.tick(),
        };
        if let Some(ended) = changed {
            publish(&hosts.members());
            hosts.known.set(hosts.hosts.len() as u64);
            // Told only now, when they find the member.
            ended.into_iter().for_each(|waiting| drop(waiting.send(Ok(()))));
        }
    }
}

/// Who waits for a host that has become a member.
type Waiting = Vec<oneshot::Sender<Result<(), ForwardFailure>>>;

struct HostTable<'a> {
    cluster: Arc<Cluster>,
    plan: Arc<ClusterPlan>,
    hosts: HashMap<ForwardHost, KnownHost>,
    lookups: JoinSet<(ForwardHost, Found)>,
    turns: Rc<Semaphore>,
    /// There is no room, and is not looked for, until then.
    full_until: Option<Instant>,
    results: CounterSet<&'a str>,
    known: Gauge,
    shard: Shard,
}

struct KnownHost {
    /// In order of preference; empty if there are none.
    addresses: Vec<SocketAddr>,
    answered_at: Option<Instant>,
    /// Why there are no addresses.
    failure: Option<ForwardFailure>,
    is_looked_up: bool,
    /// When it is looked up again; without addresses, when it is forgotten.
    next_at: Instant,
    /// The pause after the next failure.
    pause: Duration,
    idle_since: Instant,
    waiting: Waiting,
}

impl HostTable<'_> {
    /// Answers a question, or lets it wait for a look-up. Returns something if the members have changed.
    fn ask(&mut self, question: HostQuestion) -> Option<Waiting> {
        let HostQuestion { host, answer } = question;
        if let Some(known) = self.hosts.get_mut(&host) {
            match &known.failure {
                _ if !known.addresses.is_empty() => _ = answer.send(Ok(())),
                Some(failure) => _ = answer.send(Err(failure.clone())),
                None => known.waiting.push(answer),
            }
            return None;
        }
        let max = self.plan.forward.as_ref().map_or(0, |forward| forward.hosts_max);
        let (full, mut changed) = (self.hosts.len() >= max, None);
        if full {
            match self.make_room() {
                Some(was_member) => changed = was_member.then(Waiting::new),
                None => {
                    let detail = format!(
                        "the cluster knows {} (`forward.max_hosts`)",
                        plural(max as u64, "host")
                    );
                    let _ = answer.send(Err(ForwardFailure::new(reasons::LIMIT, detail)));
                    return None;
                }
            }
        }
        let now = Instant::now();
        let known = KnownHost {
            addresses: Vec::new(),
            answered_at: None,
            failure: None,
            is_looked_up: false,
            next_at: now,
            pause: self.plan.dns.retry,
            idle_since: now,
            waiting: vec![answer],
        };
        self.cluster.note_name(&host.name, NameState::waiting());
        self.hosts.insert(host.clone(), known);
        self.look_up(host);
        self.known.set(self.hosts.len() as u64);
        changed
    }

    fn look_up(&mut self, host: ForwardHost) {
        if let Some(known) = self.hosts.get_mut(&host) {
            known.is_looked_up = true;
        }
        let (plan, turns) = (Arc::clone(&self.plan), Rc::clone(&self.turns));
        self.lookups.spawn_local(async move {
            let found = async {
                let _turn = turns.acquire().await;
                usable(find(&plan, &host).await?, &plan)
            };
            let found = timeout(LOOKUP_TIMEOUT, found).await.unwrap_or_else(|_| {
                let message = format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs());
                Err(LookupFailure { outcome: LookupOutcome::Timeout, message })
            });
            (host, found)
        });
    }

    /// Takes over what a look-up came to. Returns who waits for it if the members have changed.
    fn looked_up(&mut self, host: &ForwardHost, found: Found) -> Option<Waiting> {
        let outcome = match &found {
            Ok(_) => "ok",
            Err(failure) => failure.outcome.word(),
        };
        self.results.count(&outcome, |outcome| {
            self.shard.counter(&metrics::LOOKUPS, &[&self.cluster.name, outcome])
        });
        let (now, dns) = (Instant::now(), &self.plan.dns);
        let known = self.hosts.get_mut(host)?;
        known.is_looked_up = false;
        let waiting = std::mem::take(&mut known.waiting);
        let (outcome, message, changed) = match found {
            Ok(Usable { addresses, valid_for, message, .. }) => {
                let new: Vec<_> = addresses.into_iter().map(|of| of.address).collect();
                let new = keeping_first(new, &known.addresses);
                (known.answered_at, known.failure, known.pause) = (Some(now), None, dns.retry);
                let by_ttl = || valid_for.clamp(dns.ttl_min, dns.ttl_max);
                known.next_at = now + dns.refresh.unwrap_or_else(by_ttl);
                let changed = known.addresses != new;
                known.addresses = new;
                (LookupOutcome::Resolved, message, changed)
            }
            Err(LookupFailure { outcome, message }) => {
                let stale = dns.serve_stale.is_some_and(|bound| {
                    known.answered_at.is_none_or(|answered| answered.elapsed() > bound)
                });
                let denied = outcome == LookupOutcome::Denied;
                let changed = (stale || denied) && !known.addresses.is_empty();
                if stale || denied {
                    known.addresses.clear();
                }
                known.next_at = now + known.pause;
                known.pause = (known.pause * 2).min(dns.retry_max);
                if known.addresses.is_empty() {
                    let why: Reason = if denied { reasons::EGRESS } else { reasons::DNS };
                    let failure = ForwardFailure::new(why, format!("{}: {message}", host.host));
                    for waiting in &mut waiting.into_iter() {
                        let _ = waiting.send(Err(failure.clone()));
                    }
                    known.failure = Some(failure);
                    let state = state_of(known, outcome, message, now);
                    self.cluster.note_name(&host.name, state);
                    return changed.then(Waiting::new);
                }
                (outcome, format!("{message}; the last good answer is still used"), changed)
            }
        };
        let state = state_of(known, outcome, message, now);
        self.cluster.note_name(&host.name, state);
        if changed {
            return Some(waiting);
        }
        waiting.into_iter().for_each(|waiting| drop(waiting.send(Ok(()))));
        None
    }

    /// Looks up hosts whose time has come, and forgets those that nobody uses. Returns something if the members have
    /// changed.
    fn tick(&mut self) -> Option<Waiting> {
        let (now, members) = (Instant::now(), self.cluster.members());
        let host_ttl = self.plan.forward.as_ref().map_or(Duration::ZERO, |of| of.host_ttl);
        let (mut gone, mut due) = (Vec::new(), Vec::new());
        for (host, known) in &mut self.hosts {
            let member = members.named(&host.name);
            if member.is_some_and(|member| member.take_use() || member.load() > 0) {
                known.idle_since = now;
            }
            if known.is_looked_up {
                continue;
            }
            let idle = now.saturating_duration_since(known.idle_since) >= host_ttl;
            if idle || (known.addresses.is_empty() && now >= known.next_at) {
                gone.push(host.clone());
            } else if now >= known.next_at {
                due.push(host.clone());
            }
        }
        due.into_iter().for_each(|host| self.look_up(host));
        if gone.is_empty() {
            return None;
        }
        let were_members: Vec<bool> = gone.iter().map(|host| self.forget(host)).collect();
        self.known.set(self.hosts.len() as u64);
        were_members.contains(&true).then(Waiting::new)
    }

    /// Forgets a host to make room for another: one that could not be looked up, or else the one that has been unused
    /// for longest, if that is long. Returns whether it was a member.
    fn make_room(&mut self) -> Option<bool> {
        let (now, members) = (Instant::now(), self.cluster.members());
        if self.full_until.is_some_and(|until| now < until) {
            return None;
        }
        let in_use = |host: &ForwardHost| {
            members.named(&host.name).is_some_and(|member| member.is_used() || member.load() > 0)
        };
        let failed = self.hosts.iter().find(|(_, known)| known.failure.is_some());
        let unused = || {
            let idle = |known: &KnownHost| now.saturating_duration_since(known.idle_since);
            let hosts = self.hosts.iter().filter(|(host, known)| {
                !known.addresses.is_empty() && idle(known) >= MAKES_ROOM && !in_use(host)
            });
            hosts.max_by_key(|(_, known)| idle(known))
        };
        let Some((host, _)) = failed.or_else(unused) else {
            self.full_until = Some(now + TICK);
            return None;
        };
        let host = host.clone();
        Some(self.forget(&host))
    }

    fn forget(&mut self, host: &ForwardHost) -> bool {
        self.cluster.keep_names(|name| *name != *host.name);
        self.hosts.remove(host).is_some_and(|known| !known.addresses.is_empty())
    }

    /// The hosts that have addresses, in order of their names.
    fn members(&self) -> Vec<Member> {
        let member = |(host, known): (&ForwardHost, &KnownHost)| {
            let (first, others) = known.addresses.split_first()?;
            Some(Member {
                target: Target::Ip(*first),
                host: Some(Arc::clone(&host.host)),
                name: Some(Arc::clone(&host.name)),
                traits: Arc::default(),
                alternates: others.to_vec(),
            })
        };
        let mut members: Vec<Member> = self.hosts.iter().filter_map(member).collect();
        members.sort_by(|one, two| one.name.cmp(&two.name));
        members
    }
}

fn state_of(known: &KnownHost, outcome: LookupOutcome, message: String, now: Instant) -> NameState {
    let (looked_up_at, next_at) = (Some(now), Some(known.next_at));
    NameState { outcome, message, looked_up_at, next_at, answered_at: known.answered_at }
}

/// The addresses, with the one that is in use first if it is among them: connections to it can go on being reused.
fn keeping_first(mut new: Vec<SocketAddr>, old: &[SocketAddr]) -> Vec<SocketAddr> {
    if let Some(place) = old.first().and_then(|first| new.iter().position(|one| one == first)) {
        new[..=place].rotate_right(1);
    }
    new
}

/// The addresses of a host. A name is looked up as it is: the search list of the system does not complete it.
async fn find(plan: &ClusterPlan, host: &ForwardHost) -> Result<Answer, LookupFailure> {
    if let Ok(address) = host.host.parse::<IpAddr>() {
        let address = ResolvedAddress {
            address: SocketAddr::new(address, host.port),
            host: Arc::clone(&host.host),
            weight: 1,
            priority: 0,
            http3_port: None,
        };
        return Ok(Answer { addresses: vec![address], valid_for: Duration::MAX });
    }
    let name = DnsName::Host(format!("{}.", host.host).into(), host.port);
    lookup(&plan.dns, &name).await
}

#[cfg(test)]
mod tests;
