//! Redirects of endpoints that Sluice follows itself.
//!
//! Owns: which redirects are followed, and the request that comes of one. Refuses to know: attempts. Keeps: the new
//! target passes hygiene, routing and the guards of its route, as a client's would; a redirect that cannot be followed
//! goes to the client as it is; the number of redirects is bounded.
//!
//! Source: RFC 9110 §15.4.

use std::rc::Rc;

use sluice_codec::h1::parse::is_authority;
use sluice_codec::{HttpStream, Known, Method};

use super::reroute::RoutePlace;
use super::upload::Upload;
use super::{RequestTask, RouteTarget, Stop};
use crate::connection_manager::RouteSnapshot;
use crate::hygiene;
use crate::routes::{FollowPlan, FollowScheme};

/// A request whose rule follows redirects.
pub(super) struct Following {
    snapshot: Rc<RouteSnapshot>,
    /// The rules that it has matched.
    routes: Vec<RoutePlace>,
    /// The host that the client asked for, or the last redirect: the rule may have sent another to the endpoint.
    authority: String,
    /// The scheme of the client, which the scheme of a redirect does not change.
    scheme: String,
    /// The rule of the redirect that is being followed.
    next: Option<RoutePlace>,
}

/// The parts of a target.
#[derive(Debug, PartialEq, Eq)]
struct Location<'a> {
    scheme: Option<&'static str>,
    authority: Option<&'a str>,
    path: &'a str,
}

impl RequestTask {
    /// Notes what redirects are relative to, before the rule changes it.
    pub(super) fn note_target(&mut self, target: &RouteTarget) {
        let before = self.following.take().map(|before| (before.routes, before.scheme));
        let (mut routes, scheme) =
            before.unwrap_or_else(|| (Vec::new(), self.request.scheme().to_owned()));
        routes.push(target.place);
        let snapshot = Rc::clone(&target.snapshot);
        let authority = self.request.authority().to_owned();
        let next = None;
        self.following = Some(Box::new(Following { snapshot, routes, authority, scheme, next }));
    }

    /// Whether the response is a redirect that the rule follows; if so, the request is changed to the new target.
    pub(super) fn takes_redirect(&mut self, plan: &FollowPlan) -> bool {
        let status = self.response.status();
        let Some(mut following) = self.following.take_if(|_| plan.statuses.contains(&status))
        else {
            return false;
        };
        let redirects = following.routes.len();
        let is_ready = self.upload.is_received() && self.upload.can_replay();
        let taken = is_ready
            && redirects <= plan.redirects_max as usize
            && self.retarget(plan, &mut following).is_some();
        self.following = Some(following);
        if taken {
            for name in &plan.copy_headers {
                if let Some(value) = self.response.get_named(name.as_bytes()) {
                    let value = value.to_vec();
                    self.request.set(name.as_bytes(), &value);
                }
            }
        }
        taken
    }

    /// Changes the request to the target of a redirect; leaves it as it is if there is no way to follow.
    fn retarget(&mut self, plan: &FollowPlan, following: &mut Following) -> Option<()> {
        let value = self.response.get_named(b"location")?;
        let location = parse_location(std::str::from_utf8(value).ok()?)?;
        let (now, then) =
            (self.request.scheme(), location.scheme.unwrap_or_else(|| self.request.scheme()));
        let may = match plan.scheme {
            FollowScheme::Same => now == then,
            FollowScheme::Safer => now == then || then == "https",
            FollowScheme::Any => true,
        };
        let authority = location.authority.unwrap_or(&following.authority).to_owned();
        if !may || !is_authority(authority.as_bytes()) {
            return None;
        }
        let path =
            hygiene::rewritten(&self.manager.plan.options.hygiene, location.path.to_owned())?;
        let then = then.to_owned();
        let request = &mut self.request;
        let old = (
            request.scheme().to_owned(),
            request.authority().to_owned(),
            request.path().to_owned(),
        );
        let set = |task: &mut Self, (scheme, authority, path): (String, String, String)| {
            task.request.set_scheme(scheme.as_bytes());
            task.request.set_authority(authority.as_bytes());
            task.request.set_path(path.as_bytes());
            task.request.take_target_change();
        };
        let original = request.path().to_owned();
        // Whether the client uses TLS is what routes ask.
        set(self, (following.scheme.clone(), authority, path));
        let drops_body = self.response.status() == 303;
        let place = self.find_route(&following.snapshot);
        let place = place.filter(|place| self.may_move(plan, following, *place, drops_body));
        let Some(place) = place else {
            set(self, old);
            return None;
        };
        self.request.set_scheme(then.as_bytes());
        if self.summary.original_path.is_empty() {
            self.summary.original_path = original;
        }
        if drops_body && !matches!(self.method, Method::Get | Method::Head) {
            self.request.set_method(b"GET");
            self.method = Method::Get;
        }
        if drops_body {
            for name in [Known::ContentLength, Known::ContentType] {
                self.request.remove(name.text().as_bytes());
            }
            self.upload = Upload::new(true);
        }
        following.next = Some(place);
        Some(())
    }

    /// Whether a request may go to the rule at `place`. Filters that it has not passed would have to see its body.
    fn may_move(
        &self,
        plan: &FollowPlan,
        following: &Following,
        place: RoutePlace,
        drops_body: bool,
    ) -> bool {
        let rule = &following.snapshot.table.virtual_hosts[place.0].rules[place.1];
        if plan.new_routes_only && following.routes.contains(&place) {
            return false;
        }
        if !plan.routes.is_empty() && !plan.routes.contains(&rule.name) {
            return false;
        }
        let new = self.manager.filters(&following.snapshot, rule.overrides);
        drops_body || self.upload.is_empty() || self.due_of(&new).next().is_none()
    }

    /// Goes to the target of a redirect: the filters that are due there, and its cluster.
    pub(super) async fn follow(&mut self, stream: &mut HttpStream) -> Result<RouteTarget, Stop> {
        let following = self.following.as_mut().expect("a redirect is followed");
        let (snapshot, place) = (Rc::clone(&following.snapshot), following.next.take());
        self.refuse_misdirected()?;
        let new = self.take_route(&snapshot, place);
        let ran = self.filters[..self.entered].iter();
        let filters = ran.chain(self.due_of(&new)).cloned().collect();
        self.filters = Rc::new(filters);
        if self.upload.is_empty() {
            // As it was when it was received.
            self.upload = Upload::new(true);
        }
        let place = self.run_filters(stream, &snapshot, place, self.entered).await?;
        self.choose_cluster_of(snapshot, place)
    }
}

/// The parts of a `location`. A path that is relative to that of the request is not supported.
fn parse_location(value: &str) -> Option<Location<'_>> {
    let value = value.split('#').next().unwrap_or_default();
    if value.starts_with('/') && !value.starts_with("//") {
        return Some(Location { scheme: None, authority: None, path: value });
    }
    let (scheme, rest) = match value.split_once("//")? {
        ("", rest) => (None, rest),
        (scheme, rest) if scheme.eq_ignore_ascii_case("http:") => (Some("http"), rest),
        (scheme, rest) if scheme.eq_ignore_ascii_case("https:") => (Some("https"), rest),
        _ => return None,
    };
    let (authority, path) = match rest.find(['/', '?', '\\']) {
        None => (rest, "/"),
        Some(at) if rest[at..].starts_with('/') => rest.split_at(at),
        Some(_) => return None,
    };
    Some(Location { scheme, authority: Some(authority), path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_path_or_a_url_of_http() {
        let url =
            |scheme, authority, path| Some(Location { scheme, authority: Some(authority), path });
        for (value, expected) in [
            ("/a?b#c", Some(Location { scheme: None, authority: None, path: "/a?b" })),
            ("https://a.test", url(Some("https"), "a.test", "/")),
            ("HTTP://a.test:81/x?y=//z", url(Some("http"), "a.test:81", "/x?y=//z")),
            ("//a.test/x", url(None, "a.test", "/x")),
            ("", None),
            ("x/y", None),
            ("../x", None),
            ("?x", None),
            ("ftp://a.test/x", None),
            ("javascript://a/x", None),
            ("https://a.test?x", None),
            ("https://a.test\\x", None),
        ] {
            assert_eq!(parse_location(value), expected, "{value}");
        }
    }
}
