use std::cell::Cell;

use super::*;
use crate::balance::BalancePlan;
use crate::balance::tables::BalancerTable;
use crate::endpoint::Target;

/// Always picks the same place, or what is none.
#[derive(Clone, Copy, Debug)]
struct Always(Result<Option<usize>, ExtensionFailed>, bool);

impl BalancerExtension for Always {
    fn word(&self) -> &'static str {
        "always"
    }

    fn identity(&self) -> usize {
        usize::from(self.1)
    }

    fn build(&self, members: Offered<'_>) -> Option<Box<dyn ExtensionTable>> {
        assert_eq!((members.len(), members.get(1).unwrap().1), (3, 2));
        assert!(!members.is_empty() && members.get(3).is_none());
        self.1.then(|| Box::new(*self) as Box<dyn ExtensionTable>)
    }
}

impl ExtensionTable for Always {
    fn pick(&self, _: Offered<'_>, _: &mut Pick<'_>) -> Result<Option<usize>, ExtensionFailed> {
        self.0
    }
}

/// What is picked in turn among three endpoints of which this one cannot be, and how often the balancer failed.
fn picks(always: Always, closed: u32) -> (Vec<Option<u32>>, u32) {
    let endpoint =
        |port| Arc::new(EndpointState::new(Target::Ip(([127, 0, 0, 1], port).into()), None));
    let endpoints: Vec<_> = (1..4).map(endpoint).collect();
    let chosen = (0..3).map(|index| Weighted { index, weight: u64::from(index) + 1 }).collect();
    let plan = BalancePlan::Extension(ExtensionPlan(Arc::new(always)));
    let table = BalancerTable::build(&plan, &endpoints, chosen);
    let (failures, mut turn) = (Cell::new(0), 0);
    let picked = (0..6).map(|_| {
        let failed = || failures.set(failures.get() + 1);
        let mut pick = Pick {
            random: &mut |_| 0,
            turn: &mut || {
                turn += 1;
                turn
            },
            hash: None,
            may: &|index| closed > 2 || index != closed,
            load: &|| 0,
            now: &|| sluice_core::Moment::from_micros(0),
            failed: Some(&failed),
        };
        table.pick(&endpoints, &mut pick)
    });
    (picked.collect(), failures.get())
}

#[test]
fn what_it_picks_is_picked_and_what_it_gets_wrong_is_counted() {
    assert_eq!(picks(Always(Ok(Some(2)), true), 0), (vec![Some(2); 6], 0));
    for (says, closed, failures) in [
        // It has no preference.
        (Ok(None), 9, 0),
        (Err(ExtensionFailed), 9, 6),
        (Ok(Some(3)), 9, 6),
        (Ok(Some(usize::MAX)), 9, 6),
        // What it picks cannot be picked.
        (Ok(Some(2)), 2, 6),
    ] {
        let (picked, failed) = picks(Always(says, true), closed);
        assert_eq!(failed, failures, "{says:?}");
        assert!(picked.iter().all(|index| index.is_some_and(|index| index != closed)));
        // In turn, by weight: the lightest is one of six.
        let lightest = picked.iter().filter(|index| **index == Some(0)).count();
        assert!(closed == 2 || lightest == 1, "{picked:?}");
    }
    // It could not begin.
    assert_eq!(picks(Always(Ok(Some(2)), false), 9).1, 6);
}

#[test]
fn plans_are_equal_if_they_choose_alike() {
    let plan = |begins| BalancePlan::Extension(ExtensionPlan(Arc::new(Always(Ok(None), begins))));
    assert_eq!(plan(true), plan(true));
    assert_ne!(plan(true), plan(false));
    assert_eq!(
        (plan(true).word(), plan(true).kind(), plan(true).hashes()),
        ("always", None, false)
    );
}
