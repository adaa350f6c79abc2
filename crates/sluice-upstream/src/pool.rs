//! Idle connections, per worker.
//!
//! Owns: idle connections by endpoint. Refuses to know: the protocol of a connection. Keeps: a connection handed out
//! was alive a moment ago and was made under the current settings; the sweep closes what was idle for too long or leads
//! to an endpoint that has left.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use sluice_core::Moment;

use crate::cluster::{Cluster, PlanReader};
use crate::endpoint::EndpointState;
use crate::plan::ReusePlan;

/// An idle connection and what decides about its reuse.
#[derive(Debug)]
pub struct Idle<C> {
    /// The connection.
    pub connection: C,
    /// When it was made.
    pub made: Moment,
    /// The number of requests it has carried.
    pub requests: u64,
    /// [`Cluster::generation`] when it was made.
    pub generation: u64,
    since: Moment,
}

impl<C> Idle<C> {
    /// A connection that was just made.
    pub const fn new(connection: C, made: Moment, generation: u64) -> Self {
        Self { connection, made, requests: 0, generation, since: made }
    }

    /// Whether the connection may carry another request.
    pub fn may_go_on(&self, reuse: &ReusePlan, generation: u64, now: Moment) -> bool {
        self.generation == generation
            && reuse.age_max.is_none_or(|max| now.since(self.made) < max)
            && reuse.requests_max.is_none_or(|max| self.requests < max)
    }
}

/// Idle connections to the endpoints of one cluster; the most recently used are reused first.
#[derive(Debug)]
pub struct Pool<C> {
    plan: PlanReader,
    /// How many there are.
    count: Cell<usize>,
    idle: RefCell<HashMap<Arc<str>, IdleList<C>, foldhash::fast::RandomState>>,
}

#[derive(Debug)]
struct IdleList<C> {
    endpoint: Arc<EndpointState>,
    idle: Vec<Idle<C>>,
}

impl<C> Pool<C> {
    /// An empty pool.
    pub fn new(cluster: Arc<Cluster>) -> Self {
        Self { plan: PlanReader::new(cluster), count: Cell::new(0), idle: RefCell::default() }
    }

    /// Returns a connection to `endpoint` for which `is_alive` returns true.
    pub fn take(
        &self,
        endpoint: &Arc<EndpointState>,
        now: Moment,
        mut is_alive: impl FnMut(&mut C) -> bool,
    ) -> Option<Idle<C>> {
        let mut lists = self.idle.borrow_mut();
        let list = lists.get_mut(&endpoint.name)?;
        let plan = self.plan.get();
        while let Some(mut idle) = list.idle.pop() {
            self.count.set(self.count.get() - 1);
            let generation = self.plan.cluster().generation();
            if idle.may_go_on(&plan.reuse, generation, now) && is_alive(&mut idle.connection) {
                return Some(idle);
            }
        }
        None
    }

    /// Takes a connection back; closes it if it may not be reused or enough are idle.
    pub fn give(&self, endpoint: &Arc<EndpointState>, mut idle: Idle<C>, now: Moment) {
        let plan = self.plan.get();
        idle.since = now;
        if !idle.may_go_on(&plan.reuse, self.plan.cluster().generation(), now) {
            return;
        }
        let mut lists = self.idle.borrow_mut();
        if !lists.contains_key(&endpoint.name) {
            if !self.plan.cluster().has_member(endpoint) {
                return;
            }
            let list = IdleList { endpoint: Arc::clone(endpoint), idle: Vec::new() };
            lists.insert(Arc::clone(&endpoint.name), list);
        }
        if let Some(list) = lists.get_mut(&endpoint.name)
            && list.idle.len() < plan.reuse.idle_max
        {
            list.idle.push(idle);
            self.count.set(self.count.get() + 1);
        }
    }

    /// Closes connections that were idle for too long, are dead, or lead to an endpoint that has left. `most` is how many it
    /// may close, and is lowered; at 0 there may be more.
    pub fn sweep(&self, now: Moment, most: &mut usize, mut is_alive: impl FnMut(&mut C) -> bool) {
        let plan = self.plan.get();
        let generation = self.plan.cluster().generation();
        let mut count = 0;
        self.idle.borrow_mut().retain(|_, list| {
            let stays = self.plan.cluster().has_member(&list.endpoint);
            list.idle.retain_mut(|idle| {
                let stays = *most == 0
                    || stays
                        && now.since(idle.since) < plan.reuse.idle_timeout
                        && idle.may_go_on(&plan.reuse, generation, now)
                        && is_alive(&mut idle.connection);
                *most -= usize::from(!stays);
                stays
            });
            count += list.idle.len();
            stays || !list.idle.is_empty()
        });
        self.count.set(count);
    }

    /// The number of idle connections.
    pub const fn len(&self) -> usize {
        self.count.get()
    }

    /// The number of idle connections to an endpoint.
    pub fn idle_at(&self, endpoint: &str) -> usize {
        self.idle.borrow().get(endpoint).map_or(0, |list| list.idle.len())
    }

    /// Whether there are no idle connections.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Member;
    use crate::cluster::tests::plan;
    use crate::endpoint::Target;
    use std::time::Duration;

    fn cluster() -> (Arc<Cluster>, Arc<EndpointState>) {
        let cluster = Arc::new(Cluster::new(Arc::new(plan(None))));
        let target = Target::Ip(([127, 0, 0, 1], 1).into());
        cluster.publish(&[Member {
            target,
            host: None,
            traits: Arc::default(),
            name: None,
            alternates: Vec::new(),
        }]);
        let endpoint = Arc::clone(&cluster.members().endpoints[0]);
        (cluster, endpoint)
    }

    const fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn what_is_given_comes_back_while_it_may_and_is_alive() {
        let (cluster, endpoint) = cluster();
        let pool = Pool::new(Arc::clone(&cluster));
        let give = |number: u32, requests| {
            let mut idle = Idle::new(number, at(0), cluster.generation());
            idle.requests = requests;
            pool.give(&endpoint, idle, at(1));
        };
        give(1, 0);
        // At most one may be idle.
        give(2, 0);
        assert_eq!(pool.len(), 1);
        assert_eq!(pool.take(&endpoint, at(2), |_| true).map(|idle| idle.connection), Some(1));
        assert!(pool.is_empty());
        give(3, 2);
        assert!(pool.is_empty(), "it carried as many requests as it may");
        give(4, 0);
        assert!(pool.take(&endpoint, at(2), |_| false).is_none());
        assert!(pool.is_empty(), "a dead one is not kept");
        give(5, 0);
        cluster.renew();
        assert!(pool.take(&endpoint, at(2), |_| true).is_none(), "made under other settings");
    }

    #[test]
    fn a_connection_grows_too_old_whether_it_is_used_or_not() {
        let bare = crate::plan::ClusterSettings::bare();
        let reuse = ReusePlan { age_max: Some(Duration::from_secs(5)), ..bare.reuse.clone() };
        let idle = Idle::new((), at(1), 0);
        assert!(idle.may_go_on(&reuse, 0, at(5)));
        assert!(!idle.may_go_on(&reuse, 0, at(6)));
        assert!(idle.may_go_on(&bare.reuse, 0, at(6)), "without a bound it does not");
    }

    #[test]
    fn the_sweep_closes_what_has_lain_too_long_or_leads_nowhere() {
        let (cluster, endpoint) = cluster();
        let pool = Pool::new(Arc::clone(&cluster));
        pool.give(&endpoint, Idle::new(1, at(0), 0), at(1));
        let sweep = |at| pool.sweep(at, &mut 10, |_| true);
        sweep(at(1).after(Duration::from_secs(9)));
        assert_eq!(pool.len(), 1);
        sweep(at(1).after(Duration::from_secs(10)));
        assert!(pool.is_empty());
        pool.give(&endpoint, Idle::new(2, at(0), 0), at(1));
        cluster.publish(&[]);
        sweep(at(2));
        assert!(pool.is_empty());
    }

    #[test]
    fn a_sweep_closes_no_more_than_it_may() {
        let many: Vec<Member> = (1..=40)
            .map(|last| Member {
                target: Target::Ip(([127, 0, 0, last], 1).into()),
                host: None,
                traits: Arc::default(),
                name: None,
                alternates: Vec::new(),
            })
            .collect();
        let cluster = Arc::new(Cluster::new(Arc::new(plan(None))));
        cluster.publish(&many);
        let pool = Pool::new(Arc::clone(&cluster));
        for endpoint in &*cluster.members().endpoints {
            assert!(cluster.has_member(endpoint));
            pool.give(endpoint, Idle::new((), at(0), 0), at(1));
        }
        let old = cluster.members();
        cluster.publish(&many[..30]);
        assert_eq!(old.endpoints.iter().filter(|it| cluster.has_member(it)).count(), 30);
        for (left, rest) in [(36, 0), (32, 0), (30, 2)] {
            let mut most = 4;
            pool.sweep(at(1), &mut most, |_| true);
            assert_eq!((pool.len(), most), (left, rest));
        }
    }
}
