//! Guests in WebAssembly.
//!
//! Owns: the filters `wasm` of requests and connections. Refuses to know: what a guest does. Keeps: a guest that fails refuses its requests unless the file
//! lets them pass, as in Envoy; the bounds of guests stay on.

use std::sync::Arc;

use data_encoding::BASE64;
use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, quoted, single};

impl Mapping<'_> {
    /// The filter `wasm`, from `Wasm`, of requests or of connections.
    pub(super) fn guest_filter(&mut self, wasm: &ProtoMessage, of_requests: bool) -> Option<Node> {
        let Some(config) = wasm.message("config") else {
            self.unsupported(wasm, "config", "it names the guest, and is missing");
            return None;
        };
        let mut native = NativeMap::new(config.span);
        for (field, key) in [("name", "name"), ("root_id", "root_id")] {
            if let Some(text) = config.text(field).filter(|text| !text.is_empty()) {
                native.text(key, text, config.place(field));
            }
        }
        self.guest_config(config, "config", &mut native);
        let Some(vm) = config.message("vm_config") else {
            self.unsupported(config, "vm_config", "it names the module, and is missing");
            return None;
        };
        self.guest_vm(vm, &mut native)?;
        self.guest_failures(config, &mut native);
        if !of_requests {
            config.without_effect(&["allow_on_headers_stop_iteration"]);
        } else if config.bool("allow_on_headers_stop_iteration") == Some(true) {
            let place = config.place("allow_on_headers_stop_iteration");
            native.word("headers_wait_for_body", true, place);
        }
        if let Some(restrictions) = config.message("capability_restriction_config")
            && !restrictions.map("allowed_capabilities").is_empty()
        {
            let how = "guests have all functions of the interface, and reach nothing else";
            self.unsupported(config, "capability_restriction_config", how);
        }
        if self.plane.is_none() {
            let mut clusters: Vec<(&Arc<str>, &Arc<str>)> = self.clusters.iter().collect();
            clusters.sort();
            let names = clusters.iter().map(|(_, native)| quoted(native, config.span)).collect();
            native.list("clusters", names, config.span);
        }
        let how = "a call of a guest may use 100 ms of processor time, and an instance 64 MiB; \
                   one that failed is replaced after a second";
        self.differs(config, "vm_config", how);
        Some(single("wasm", native.node()))
    }

    /// What becomes of requests whose guest fails.
    fn guest_failures(&mut self, config: &ProtoMessage, native: &mut NativeMap) {
        let policy = config.choice("failure_policy");
        let open = config.is("fail_open") || &*policy == "FAIL_OPEN";
        native.word("on_error", if open { "continue" } else { "fail" }, config.span);
        let backoff = config.message("reload_config").and_then(|of| of.message("backoff"));
        if let Some(backoff) = backoff {
            backoff.without_effect(&["max_interval"]);
            if let Some(first) = self.duration(backoff, "base_interval", Zero::Refused) {
                native.set("restart", first);
            }
        }
    }

    /// The module, and what its instances are made with.
    fn guest_vm(&mut self, vm: &ProtoMessage, native: &mut NativeMap) -> Option<()> {
        vm.without_effect(&["allow_precompiled", "nack_on_code_cache_miss"]);
        if let Some(runtime) = vm.text("runtime")
            && runtime.ends_with(".null")
        {
            self.unsupported(vm, "runtime", "such a guest is a part of Envoy");
            return None;
        }
        let code = vm.message("code");
        let Some(local) = code.and_then(|code| code.message("local")) else {
            let how = "the module comes from a local file, or is in `inline_bytes`";
            self.unsupported(vm, "code", how);
            return None;
        };
        self.guest_module(local, native)?;
        let mut instance = NativeMap::new(vm.span);
        if let Some(id) = vm.text("vm_id").filter(|id| !id.is_empty()) {
            instance.text("id", id, vm.place("vm_id"));
        }
        self.guest_config(vm, "config", &mut instance);
        if let Some(variables) = vm.message("environment_variables") {
            let mut all = NativeMap::new(variables.span);
            for (name, item) in variables.map("key_values") {
                if let ProtoValue::Text(value) = &item.value {
                    all.set(name, quoted(value, item.span));
                }
            }
            for (name, span) in variables.texts("host_env_keys") {
                // One that is not set is left out, as in Envoy.
                if let Ok(value) = std::env::var(&**name) {
                    all.set(name, quoted(&value, span));
                }
            }
            instance.map("environment", all);
        }
        native.map("vm", instance);
        Some(())
    }

    fn guest_module(&mut self, local: &ProtoMessage, native: &mut NativeMap) -> Option<()> {
        if let Some(folder) = local.message("watched_directory") {
            folder.all_without_effect();
        }
        if let Some(path) = local.text("filename") {
            native.text("file", path, local.place("filename"));
            return Some(());
        }
        if let Some(field) = local.field("inline_bytes")
            && let ProtoValue::Bytes(bytes) = &field.value
        {
            native.text("inline", &BASE64.encode(bytes), field.span);
            return Some(());
        }
        let how = "the module comes from `filename` or `inline_bytes`";
        self.unsupported_at(local, how);
        None
    }

    /// What a guest or an instance is configured with: a text, bytes or JSON in an `Any`.
    fn guest_config(&mut self, of: &ProtoMessage, key: &str, native: &mut NativeMap) {
        let Some(config) = of.message("configuration") else { return };
        match config.type_name() {
            "google.protobuf.StringValue" => {
                let text = config.text("value").map_or("", |text| text);
                native.text(key, text, config.span);
            }
            "google.protobuf.BytesValue" => {
                let bytes = config.field("value").map(|field| &field.value);
                match bytes {
                    Some(ProtoValue::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                        Ok(text) => native.text(key, text, config.span),
                        Err(_) => self.unsupported(of, "configuration", "only UTF-8 is"),
                    },
                    _ => native.text(key, "", config.span),
                }
            }
            "google.protobuf.Struct" => {
                if let Some(json) = config.json("fields") {
                    native.set(key, json.clone());
                }
            }
            "google.protobuf.Any" => {}
            _ => self.unsupported(of, "configuration", "it is a StringValue, BytesValue or Struct"),
        }
    }
}
