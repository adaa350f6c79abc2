//! Checks of the limits for requests with high priority.
//!
//! Owns: whether a request with high priority may reach a cluster. Refuses to know: the limits themselves. Keeps: limits
//! that hold for no request are reported.

use sluice_core::settings::Short;
use sluice_core::{Diags, Name, Path, Setting as _, Spanned};

use crate::sections::routes::forwarding::RulePriority;
use crate::sections::{Cluster, Config, HighLimits};

/// Warns of limits for high priority at a cluster that no rule with high priority leads to.
pub(super) fn of_cluster(
    config: &Config,
    name: &Name,
    cluster: &Spanned<Short<Cluster>>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let usual = HighLimits::absent();
    if usual.is_none_or(|usual| cluster.limits.high == usual) || is_reached(config, name) {
        return;
    }
    let message = format!("no rule with `priority: high` leads to `{name}`");
    let at = at.key("limits");
    diags
        .warning("useless-setting", cluster.span, at.key("high"), message)
        .help("add `priority: high` to a rule, or remove `high`");
}

/// Whether a rule with high priority leads to the cluster; one whose requests name it may lead to any.
fn is_reached(config: &Config, name: &Name) -> bool {
    let hosts = config.routes.iter().flat_map(|(_, hosts)| hosts.iter());
    let mut rules = hosts.flat_map(|host| host.rules.iter());
    rules.any(|rule| {
        let split = rule.split.iter().flat_map(|split| split.0.iter().map(|(name, _)| name));
        let mut clusters = rule.cluster.iter().chain(split);
        rule.priority == RulePriority::High
            && (rule.cluster_header.is_some()
                || rule.cluster_from.is_some()
                || clusters.any(|it| super::served_by(config, it).any(|it| it.value == *name)))
    })
}
