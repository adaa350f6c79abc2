//! A Sluice whose users log in at a provider that says what the test wants.
//!
//! Owns: its configuration, and where to look for what became of a login. Refuses to know: what a test expects. Keeps: all
//! tests of logins have the same listener, client and key.

use serde_json::{Value, json};
use sluice_testkit::{IdentityProvider, Origin, Running, Sluice};

/// The key of sessions.
pub const KEY: &str = "0123456789abcdef0123456789abcdef";

/// The settings of a provider; `more` are further ones.
pub fn provider(id: &IdentityProvider, more: &str) -> String {
    format!(
        "{{ issuer: \"{}\", cluster: id, client_id: shop, client_secret: s3cret, session: {{ key: {KEY} }}{more} }}",
        id.issuer()
    )
}

/// A listener `web` with the filter.
pub fn yaml(origin: &Origin, id: &IdentityProvider, oidc: &str, rules: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ oidc: {oidc} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: {rules} }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}, id: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr(),
        id.addr()
    )
}

/// A rule for everything.
pub const RULES: &str = "[{ cluster: up }]";

/// A Sluice whose users log in at `corp`; `more` are settings of the provider, `guard` those of the filter.
pub fn start(origin: &Origin, id: &IdentityProvider, more: &str, guard: &str) -> Running {
    let oidc = format!("{{ providers: {{ corp: {} }}{guard} }}", provider(id, more));
    Sluice::new().workers(1).start(&yaml(origin, id, &oidc, RULES))
}

/// No claims.
pub fn none() -> Value {
    json!({})
}

/// The detail of a record with a reason.
pub fn detail(sluice: &Running, reason: &str) -> String {
    sluice.record_of(reason)["response_code_details"].as_str().unwrap_or_default().to_owned()
}

/// How often the filter did this.
pub fn result(sluice: &Running, result: &str) -> i64 {
    sluice.metric("sluice_oidc_results_total", &format!("result=\"{result}\""))
}
