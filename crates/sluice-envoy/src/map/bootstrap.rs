//! The bootstrap: the root of a file.
//!
//! Owns: admin, node, runtime layers, and in which order the resources are mapped. Refuses to know: what is in them.
//! Keeps: every field that was not read is reported.

use std::time::Duration;

use sluice_core::{Diags, Node};

use super::{Mapping, breakers, native_name};
use crate::delivered::DeliveredSecrets;
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted};
use crate::secret_files::SecretFiles;
use crate::stats::StatRules;

/// Fields of a bootstrap that say how Envoy reports and schedules, not what it does with traffic.
const WITHOUT_EFFECT: [&str; 11] = [
    "node_context_params",
    "deferred_stat_options",
    "stats_flush_interval",
    "stats_flush_on_admin",
    "stats_eviction_interval",
    "watchdog",
    "watchdogs",
    "enable_dispatcher_stats",
    "stats_server_version_override",
    "memory_allocator_manager",
    "perf_tracing_file_path",
];

/// The native form of a bootstrap, with how long shutting down may take. Adds every problem and every difference to `diags`.
pub fn map(
    bootstrap: &ProtoMessage,
    files: &SecretFiles,
    drain: Option<Duration>,
    diags: &mut Diags,
) -> Node {
    let mut root = NativeMap::new(bootstrap.span);
    let delivered = DeliveredSecrets::default();
    let mut mapping = Mapping::new(files, &delivered, bootstrap.span, diags);
    bootstrap.without_effect(&WITHOUT_EFFECT);
    for field in WITHOUT_EFFECT {
        if let Some(ProtoValue::Message(message)) = bootstrap.field(field).map(|field| &field.value)
        {
            message.all_without_effect();
        }
    }
    if let Some(tracing) = bootstrap.message("tracing") {
        tracing.all_without_effect();
        mapping.differs(bootstrap, "tracing", "no spans are reported");
    }
    // What else is in it is reported, unless it is empty. The service is read before anything else.
    let manager = bootstrap.message("cluster_manager");
    if let Some(config) = manager.and_then(|of| of.message("load_stats_config")) {
        config.all_without_effect();
    }
    mapping.statistics(bootstrap);
    mapping.admin(bootstrap, &mut root);
    mapping.node(bootstrap, &mut root);
    mapping.dynamic(bootstrap);
    mapping.runtime(bootstrap, &mut root);
    mapping.regex_engine(bootstrap);
    mapping.extensions(bootstrap);
    mapping.high_priority = bootstrap.has("dynamic_resources");
    if let Some(resources) = bootstrap.message("static_resources") {
        mapping.resources(resources, &mut root);
    }
    let logs = std::mem::take(&mut mapping.logs);
    root.list("access_log", logs.into_native(), bootstrap.span);
    if let Some(drain) = drain {
        let mut section = NativeMap::new(bootstrap.span);
        // A second at least: there is no shorter one in whole seconds that is not zero.
        section.word("timeout", format!("{}s", drain.as_secs().max(1)), bootstrap.span);
        root.map("drain", section);
    }
    mapping.forget_unused_secrets();
    mapping.report_unread(bootstrap);
    for secret in std::mem::take(&mut mapping.used_of_others) {
        mapping.report_unread(secret);
    }
    root.node()
}

impl<'a> Mapping<'a> {
    /// Reports what of the rules for statistics cannot be followed.
    fn statistics(&mut self, bootstrap: &ProtoMessage) {
        let Some(config) = bootstrap.message("stats_config") else { return };
        let mut problems = Vec::new();
        StatRules::of(config, &mut |problem| problems.push(problem));
        for problem in problems {
            if problem.is_error {
                self.unsupported(problem.of, problem.field, &problem.text);
            } else {
                self.differs(problem.of, problem.field, &problem.text);
            }
        }
    }

    /// Reports every field below a message that was not read.
    pub(super) fn report_unread(&mut self, below: &ProtoMessage) {
        let mut unread = Vec::new();
        below.unread(&mut unread);
        for (message, field) in unread {
            let name = field.descriptor.name();
            let text = format!("`{name}` of {} is not supported", message.type_name());
            self.diags.error(crate::coverage::UNSUPPORTED, field.span, message.at(name), text);
        }
    }

    fn resources(&mut self, resources: &'a ProtoMessage, root: &mut NativeMap) {
        self.secrets(resources);
        self.name_clusters(resources);
        // Listeners that come later, or were taken out of the file, may have such routes.
        let all_known = resources.messages("listeners").next().is_some();
        self.high_priority |= !all_known || breakers::asks_for_high_priority(resources);
        for cluster in resources.messages("clusters") {
            if let Some(name) = cluster.text("name").filter(|_| cluster.has("lb_subset_config")) {
                self.by_subset.insert(name.clone());
            }
            self.note_endpoints(cluster);
        }
        let mut clusters = NativeMap::new(resources.place("clusters"));
        for cluster in resources.messages("clusters") {
            if let Some((name, native)) = self.cluster_resource(cluster) {
                clusters.push(&name, native);
            }
        }
        self.note_unbound(resources);
        let bound = resources.messages("listeners").filter(|of| !Self::is_unbound(of));
        let listeners: Vec<Node> = bound.filter_map(|of| self.listener(of)).collect();
        for (name, span) in std::mem::take(&mut self.missing_clusters) {
            let mut none = NativeMap::new(span);
            none.word("allow_empty", true, span);
            clusters.push(&name, none.node());
        }
        root.list("listeners", listeners, resources.place("listeners"));
        root.map("clusters", clusters);
        let routes = std::mem::replace(&mut self.routes, NativeMap::new(resources.span));
        root.map("routes", routes);
    }

    /// Gives every cluster its native name, before anything refers to one.
    fn name_clusters(&mut self, resources: &ProtoMessage) {
        for cluster in resources.messages("clusters") {
            let Some(name) = cluster.text("name") else { continue };
            if self.clusters.contains_key(name) {
                let message = format!("two clusters are named `{name}`");
                self.diags.error(
                    "duplicate-name",
                    cluster.place("name"),
                    cluster.at("name"),
                    message,
                );
                continue;
            }
            let native = self.cluster_names.add(name);
            self.clusters.insert(name.clone(), native.into());
        }
    }

    fn admin(&mut self, bootstrap: &ProtoMessage, root: &mut NativeMap) {
        let Some(admin) = bootstrap.message("admin") else { return };
        admin.without_effect(&["ignore_global_conn_limit"]);
        for field in ["access_log", "access_log_path", "profile_path"] {
            if admin.has(field) {
                admin.field(field).into_iter().for_each(|field| {
                    field.value.messages(&mut ProtoMessage::all_without_effect);
                });
                self.differs(
                    admin,
                    field,
                    "requests to the admin address are not logged or profiled",
                );
            }
        }
        let Some(address) = admin.message("address") else { return };
        let pipe = address.message("pipe");
        let text = match pipe {
            Some(pipe) => self.pipe(pipe),
            None => self.address(address).map(|(_, text)| text),
        };
        if let Some(text) = text {
            let mut native = NativeMap::new(admin.span);
            native.text("address", &text, address.span);
            if let Some((pipe, mode)) = pipe.and_then(|of| Some((of, of.number("mode")?))) {
                native.text("mode", &format!("{mode:04o}"), pipe.place("mode"));
            }
            native.word("writable", true, admin.span);
            root.set("admin", native.node());
        }
    }

    fn node(&mut self, bootstrap: &ProtoMessage, root: &mut NativeMap) {
        let Some(node) = bootstrap.message("node") else { return };
        // What it tells a control plane.
        let told = [
            "cluster",
            "metadata",
            "dynamic_parameters",
            "user_agent_name",
            "user_agent_version",
            "user_agent_build_version",
            "extensions",
            "client_features",
            "listening_addresses",
        ];
        node.without_effect(&told);
        for field in told {
            node.field(field).into_iter().for_each(|field| {
                field.value.messages(&mut ProtoMessage::all_without_effect);
            });
        }
        self.own_cluster = node.text("cluster").map(|text| text.to_string());
        let mut native = NativeMap::new(node.span);
        if let Some(id) = node.text("id") {
            native.text("id", id, node.place("id"));
        }
        if let Some(locality) = node.message("locality").and_then(|of| self.locality(of)) {
            native.set("locality", locality);
        }
        root.map("node", native);
    }

    /// What control planes are asked for.
    fn dynamic(&mut self, bootstrap: &ProtoMessage) {
        // What it says of sources and services is read before anything else.
        if let Some(service) = bootstrap.message("hds_config") {
            service.all_without_effect();
        }
        if let Some(dynamic) = bootstrap.message("dynamic_resources") {
            dynamic.all_without_effect();
            if dynamic.has("ads_config") && !dynamic.has("lds_config") && !dynamic.has("cds_config")
            {
                let how = "no stream to a control plane is opened unless a resource comes over it";
                self.differs(dynamic, "ads_config", how);
            }
        }
    }

    /// Layers of runtime values: those in the file, and that of the operator, who changes them on the admin pages.
    fn runtime(&mut self, bootstrap: &ProtoMessage, root: &mut NativeMap) {
        let Some(runtime) = bootstrap.message("layered_runtime") else { return };
        let mut values = NativeMap::new(runtime.span);
        for layer in runtime.messages("layers") {
            layer.without_effect(&["name", "admin_layer"]);
            if layer.has("disk_layer") {
                self.unsupported(layer, "disk_layer", "write the values as a `static_layer`");
            }
            // Its source is read before anything else, and its values come later.
            if let Some(of) = layer.message("rtds_layer") {
                of.all_without_effect();
            }
            if let Some(found) = layer.json("static_layer") {
                self.runtime_values(found, "", &mut values);
            }
        }
        let mut section = NativeMap::new(runtime.span);
        section.map("values", values);
        root.map("runtime", section);
    }

    /// Adds values by their whole names: `{ a: { b: 5 } }` is `a.b`.
    pub(super) fn runtime_values(&mut self, node: &Node, prefix: &str, values: &mut NativeMap) {
        for entry in node.entries().unwrap_or_default() {
            let key = if prefix.is_empty() {
                entry.key.to_string()
            } else {
                format!("{prefix}.{}", entry.key)
            };
            // Switches of Envoy itself.
            if ["envoy.", "re2.", "overload."].iter().any(|own| key.starts_with(own)) {
                let message =
                    format!("the runtime value `{key}` is one of Envoy's own and has no effect");
                self.diags.warning(crate::coverage::DIFFERS, entry.node.span, key, message);
                continue;
            }
            match entry.node.text() {
                Some(text) => values.set(&key, quoted(text, entry.node.span)),
                None if entry.node.get("numerator").is_some() => {
                    let message = format!("the runtime value `{key}` must be a number");
                    self.diags.error(crate::coverage::UNSUPPORTED, entry.node.span, key, message);
                }
                None => self.runtime_values(&entry.node, &key, values),
            }
        }
    }

    /// Extensions of the process, and monitors of its resources: there are none, so each is reported by its type.
    fn extensions(&mut self, bootstrap: &ProtoMessage) {
        for extension in bootstrap.messages("bootstrap_extensions") {
            extension.without_effect(&["name"]);
            if let Some(config) = extension.message("typed_config") {
                self.unsupported_type(config);
            }
        }
        let Some(manager) = bootstrap.message("overload_manager") else { return };
        let mut monitors = Vec::new();
        for monitor in manager.messages("resource_monitors") {
            monitors.extend(monitor.message("typed_config"));
        }
        manager.all_without_effect();
        if monitors.is_empty() {
            let how = "what is under load is limited by `limits` (see `limits` of the reference)";
            self.unsupported(bootstrap, "overload_manager", how);
        }
        for monitor in monitors {
            self.unsupported_type(monitor);
        }
    }

    fn regex_engine(&mut self, bootstrap: &ProtoMessage) {
        let Some(engine) = bootstrap.message("default_regex_engine") else { return };
        engine.without_effect(&["name"]);
        match engine.message("typed_config") {
            // The syntax is the same, and matching takes linear time here too.
            Some(config) if config.descriptor.name() == "GoogleRE2" => config.all_without_effect(),
            Some(config) => self.unsupported_type(config),
            None => {}
        }
    }

    /// A locality as the native form writes it.
    pub(super) fn locality(&self, locality: &ProtoMessage) -> Option<Node> {
        // A slash, for one, separates the parts in the native form.
        let part = |field| locality.text(field).map_or(String::new(), |text| native_name(text));
        let (region, zone, sub_zone) = (part("region"), part("zone"), part("sub_zone"));
        // A part that is missing before another is `-`.
        let part = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let text = match (&*region, &*zone, &*sub_zone) {
            ("", "", "") => return None,
            ("", zone, "") => zone.to_owned(),
            (region, zone, "") => format!("{}/{}", part(region), part(zone)),
            (region, zone, sub_zone) => format!("{}/{}/{sub_zone}", part(region), part(zone)),
        };
        Some(plain(text, locality.span))
    }
}
