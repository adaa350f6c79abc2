//! The redirects that a rule follows.

use std::collections::HashSet;
use std::sync::Arc;

use sluice_codec::Known;
use sluice_core::settings::Members;
use sluice_core::{Diags, Name, Path, Spanned};
use sluice_l7::routes::{FollowPlan, FollowScheme};

use crate::model::routes::RouteTable;
use crate::sections::HostOrRule;
use crate::sections::routes::HeaderName;
use crate::sections::routes::forwarding::{FollowRedirects, RedirectScheme};

/// The plan. Fields are listed by name so that a new one cannot be forgotten.
pub(super) fn follow(
    section: &Spanned<FollowRedirects>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<FollowPlan> {
    let FollowRedirects { statuses, max, scheme, routes, new_routes_only, copy_headers } =
        &section.value;
    let mut statuses: Vec<u16> = statuses.iter().map(|status| status.0).collect();
    if let Some(other) = statuses.iter().find(|status| !matches!(status, 301..=303 | 307 | 308)) {
        let message = format!("{other} is not the status of a redirect: 301, 302, 303, 307 or 308");
        diags.error("bad-value", section.span, at.key("statuses"), message);
        return None;
    }
    if statuses.is_empty() {
        statuses.push(302);
    }
    if let Some(name) = copy_headers.iter().find(|name| is_of_message(name)) {
        let message = format!("`{}` belongs to the connection or the message", name.0);
        diags
            .error("bad-value", section.span, at.key("copy_headers"), message)
            .help("remove it; Sluice sets it itself");
        return None;
    }
    Some(FollowPlan {
        statuses,
        redirects_max: max.get(),
        scheme: match scheme {
            RedirectScheme::Same => FollowScheme::Same,
            RedirectScheme::Safer => FollowScheme::Safer,
            RedirectScheme::Any => FollowScheme::Any,
        },
        routes: routes.iter().map(|route| Arc::clone(&route.value)).collect(),
        new_routes_only: *new_routes_only,
        copy_headers: copy_headers.iter().map(|name| name.0.clone()).collect(),
    })
}

/// Checks that the rules that a redirect may lead to are in the table.
pub(super) fn check_routes(
    hosts: &Members<HostOrRule>,
    table: &RouteTable,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let known: HashSet<&Name> = table.rules().map(|rule| &rule.name).collect();
    for (place, host) in hosts.places() {
        let list = at.index(place);
        let list = list.key("rules");
        for (place, rule) in host.rules.places() {
            let Some(follow) = &rule.follow_redirects else { continue };
            let unknown = follow.routes.iter().filter(|route| !known.contains(&route.value));
            for route in unknown {
                let here = list.index(place);
                let message = format!("no rule of this table is named `{}`", route.value);
                diags
                    .error("unknown-name", route.span, here.key("follow_redirects"), message)
                    .help("set `name` on the rule that the redirect may lead to");
            }
        }
    }
}

/// Whether a header says something about the connection or the message, so that a copy would mean something else.
fn is_of_message(name: &HeaderName) -> bool {
    Known::of(name.0.as_bytes()).is_some_and(|known| {
        known.is_hop_by_hop()
            || matches!(
                known,
                Known::Host
                    | Known::ContentLength
                    | Known::Te
                    | Known::Trailer
                    | Known::Expect
                    | Known::XSluiceHops
                    | Known::XForwardedFor
                    | Known::XForwardedProto
                    | Known::Forwarded
            )
    })
}
