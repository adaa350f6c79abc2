//! Countries and networks of clients.
//!
//! Owns: `geoip` with databases of MaxMind. Refuses to know: which address is the client's.

use sluice_core::Node;

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, quoted, single};

/// The fields of Envoy, and the values here.
const VALUES: [(&str, &str); 5] = [
    ("country", "geo.country"),
    ("city", "geo.city"),
    ("region", "geo.region"),
    ("asn", "geo.asn"),
    ("asn_org", "geo.organization"),
];

impl Mapping<'_> {
    /// The filter `geo`, from `Geoip`; `after` gets the headers with what it finds.
    pub(super) fn geo(&mut self, config: &ProtoMessage, after: &mut Vec<Node>) -> Option<Node> {
        for field in ["xff_config", "custom_header_config"] {
            if config.has(field) {
                let how = "the client's address is that of the connection manager (`xff_num_trusted_hops`)";
                self.unsupported(config, field, how);
            }
        }
        let provider = config.message("provider")?;
        provider.without_effect(&["name"]);
        let of = provider.message("typed_config")?;
        if of.descriptor.name() != "MaxMindConfig" {
            self.unsupported_type(of);
            return None;
        }
        let mut databases = Vec::new();
        for field in ["city_db_path", "country_db_path", "asn_db_path"] {
            databases.extend(of.text(field).map(|path| quoted(path, of.place(field))));
        }
        let mut native = NativeMap::new(of.span);
        native.list("databases", databases, of.span);
        let common = of.message("common_provider_config");
        let names = common.and_then(|common| {
            common.message("geo_field_keys").or_else(|| common.message("geo_headers_to_add"))
        });
        if let Some(names) = names {
            let mut headers = NativeMap::new(names.span);
            for (field, value) in VALUES {
                if let Some(header) = names.text(field) {
                    let text = format!("%VALUE({value})%");
                    headers.text(&header.to_ascii_lowercase(), &text, names.place(field));
                }
            }
            if !headers.is_empty() {
                let how =
                    "a header is `-` where nothing is known, whatever a client has sent in it";
                self.differs(of, "common_provider_config", how);
                after.push(single("set_headers", single("request", headers.node())));
            }
        }
        Some(single("geo", native.node()))
    }
}
