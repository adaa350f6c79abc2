//! Scripts in Lua.
//!
//! Owns: the filter `lua`, of chains, hosts and routes. Refuses to know: what a script does. Keeps: a script that fails lets
//! its request pass, as in Envoy; the bounds of scripts stay on.

use std::sync::Arc;

use sluice_core::{Node, Value};

use super::Mapping;
use super::switches::kind_of_key;
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

/// The name under which metadata of routes is for scripts.
const NAMESPACE: &str = "envoy.filters.http.lua";

impl Mapping<'_> {
    /// The filter `lua`, from `Lua`.
    pub(super) fn script_filter(&mut self, config: &ProtoMessage) -> Option<Node> {
        config.without_effect(&["stat_prefix"]);
        let mut native = NativeMap::new(config.span);
        let mut calls = false;
        if let Some(source) = config.message("default_source_code") {
            self.script(source, &mut native, &mut calls)?;
        } else if let Some(text) = config.text("inline_code") {
            calls |= text.contains("httpCall");
            native.text("source", text, config.place("inline_code"));
        }
        let mut sources = NativeMap::new(config.place("source_codes"));
        for (name, item) in config.map("source_codes") {
            let ProtoValue::Message(source) = &item.value else { continue };
            let mut script = NativeMap::new(source.span);
            self.script(source, &mut script, &mut calls)?;
            sources.map(name, script);
        }
        if native.is_empty() && sources.is_empty() {
            // Routes bring scripts; this one is never run.
            let nothing = "function envoy_on_request() end";
            sources.set("none", single("source", quoted(nothing, config.span)));
        }
        native.map("sources", sources);
        self.script_context(config, &mut native);
        if self.plane.is_none() {
            let mut clusters: Vec<(&Arc<str>, &Arc<str>)> = self.clusters.iter().collect();
            clusters.sort();
            let renamed = clusters.iter().any(|(name, native)| name != native);
            let names = clusters.iter().map(|(_, native)| quoted(native, config.span)).collect();
            native.list("clusters", names, config.span);
            if calls && renamed {
                let how = "`httpCall` knows clusters whose names had to be changed by the new ones";
                self.differs(config, "default_source_code", how);
            }
        } else if calls {
            let how = "`httpCall` cannot reach clusters of a control plane";
            self.unsupported_at(config, how);
        }
        native.word("reroute", config.bool("clear_route_cache") != Some(false), config.span);
        native.word("on_error", "continue", config.span);
        self.metadata.by_scripts = true;
        let how = "a script may use 1000000 instructions, 100 ms and 16 MiB; `os`, `io` and `require` are not there";
        self.differs(config, "default_source_code", how);
        Some(single("lua", native.node()))
    }

    /// The settings of a host or route, from `LuaPerRoute`.
    pub(super) fn script_override(&mut self, config: &ProtoMessage) -> Option<Node> {
        if config.is("disabled") {
            return Some(plain("skip", config.span));
        }
        let mut native = NativeMap::new(config.span);
        if let Some(name) = config.text("name") {
            native.text("run", name, config.place("name"));
        }
        if let Some(source) = config.message("source_code") {
            let mut calls = false;
            self.script(source, &mut native, &mut calls)?;
            if calls && self.plane.is_some() {
                self.unsupported_at(source, "`httpCall` cannot reach clusters of a control plane");
            }
        }
        self.script_context(config, &mut native);
        Some(native.node())
    }

    fn script(
        &mut self,
        source: &ProtoMessage,
        native: &mut NativeMap,
        calls: &mut bool,
    ) -> Option<()> {
        if let Some(folder) = source.message("watched_directory") {
            folder.all_without_effect();
        }
        if let Some(path) = source.text("filename") {
            // What is in it may change.
            *calls = true;
            native.text("file", path, source.place("filename"));
            return Some(());
        }
        let text = self.given_text(source)?;
        *calls |= text.contains("httpCall");
        native.text("source", &text, source.span);
        Some(())
    }

    fn script_context(&mut self, config: &ProtoMessage, native: &mut NativeMap) {
        for field in ["package_paths", "package_cpaths"] {
            if config.has(field) {
                self.unsupported(config, field, "scripts load no other files");
            }
        }
        if let Some(context) = config.json("filter_context") {
            native.set("context", context.clone());
        }
    }

    /// Adds what scripts get from `metadata()` on this route.
    pub(super) fn script_metadata(&mut self, route: &ProtoMessage, filters: &mut NativeMap) {
        let Some(metadata) = route.message("metadata") else { return };
        let uses = self.chain_filters.iter().filter(|(_, (key, _))| kind_of_key(key) == "lua");
        let mut uses: Vec<_> = uses.map(|(name, (key, _))| (name, key)).collect();
        uses.sort();
        for (name, key) in uses {
            let all = metadata.map("filter_metadata");
            // The name of the filter comes first, as in Envoy.
            let named = [&**name, NAMESPACE].into_iter();
            let mut found = named.filter_map(|wanted| all.iter().find(|(own, _)| &**own == wanted));
            let Some((_, item)) = found.next() else { continue };
            let ProtoValue::Json(values) = &item.value else { continue };
            let own = filters.take(key);
            if own.as_ref().is_some_and(|own| !matches!(own.value, Value::Map(_))) {
                // The script is not run.
                filters.set(key, own.unwrap_or_else(|| plain("skip", route.span)));
                continue;
            }
            let mut settings = NativeMap::of(own, item.span);
            settings.set("metadata", values.clone());
            filters.map(key, settings);
        }
    }
}
