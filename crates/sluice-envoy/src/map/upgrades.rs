//! Upgrades and tunnels of routes.
//!
//! Owns: which protocols a rule lets clients upgrade to, and what becomes of CONNECT. Refuses to know: where requests go.

use super::Mapping;
use super::routes::HostDefaults;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted};

impl Mapping<'_> {
    /// The `upgrades` and `connect` of a rule: those of the connection manager, with what the route says.
    pub(super) fn upgrades(
        &mut self,
        action: &ProtoMessage,
        defaults: &HostDefaults<'_>,
        rule: &mut NativeMap,
    ) {
        let mut upgrades = defaults.http.upgrades.clone();
        for upgrade in action.messages("upgrade_configs") {
            let Some(kind) = upgrade.text("upgrade_type").map(|kind| kind.to_ascii_lowercase())
            else {
                continue;
            };
            let on = upgrade.bool("enabled") != Some(false);
            if kind == "connect" {
                match upgrade.message("connect_config") {
                    Some(config) if on => {
                        let posts = config.is("allow_post");
                        if config.has("proxy_protocol_config") {
                            let how = "nothing is sent before the bytes of the tunnel";
                            self.unsupported(config, "proxy_protocol_config", how);
                        }
                        let word = if posts { "terminate_post" } else { "terminate" };
                        rule.word("connect", word, upgrade.span);
                    }
                    None if on => rule.word("connect", true, upgrade.span),
                    _ => {}
                }
                continue;
            }
            if upgrade.has("connect_config") {
                self.unsupported(upgrade, "connect_config", "of other upgrades than CONNECT");
            }
            upgrades.retain(|known| known.text() != Some(&kind));
            if on {
                upgrades.push(quoted(&kind, upgrade.span));
            }
        }
        if upgrades.is_empty() {
            rule.word("upgrades", "none", action.span);
        } else {
            rule.list("upgrades", upgrades, action.span);
        }
    }
}
