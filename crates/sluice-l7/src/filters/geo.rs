//! `geo`: where a client's address is, and whose it is, by databases in MaxMind's format.
//!
//! Owns: the databases, and the values that are read from them. Refuses to know: what a country may do. Keeps: an address
//! that is in no database has no value; a database that changes is in force as soon as it has been read whole, and the
//! last one stays if it cannot be used.

use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use maxminddb::{PathElement, Reader};
use sluice_codec::Head;
use sluice_core::limits::Limit;
use sluice_core::values::ValueKey;
use sluice_core::{Node, Spanned, ValueDef};
use sluice_io::WorkerCx;
use sluice_l4::filters::{Content, Fetched};

use super::{CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings};

sluice_core::values! {
    COUNTRY: String = "geo.country", "The country of the client's address (ISO 3166-1, such as `DE`), by the filter `geo`.";
    CONTINENT: String = "geo.continent", "The continent of the client's address, such as `EU`, by the filter `geo`.";
    REGION: String = "geo.region", "The part of the country that the client's address is in (ISO 3166-2 without the country, such as `BE`), by the filter `geo`.";
    CITY: String = "geo.city", "The English name of the city of the client's address, by the filter `geo`.";
    ASN: String = "geo.asn", "The number of the autonomous system that the client's address belongs to, by the filter `geo`.";
    ORGANIZATION: String = "geo.organization", "The organization that runs this system, by the filter `geo`.";
}

sluice_core::section! {
    /// Tells where a client's address is, and whose it is.
    pub struct Geo {
        /// Databases in MaxMind's format (.mmdb): of countries or cities, of autonomous systems. Of a value that several have,
        /// the first counts. They are read again when they change.
        pub databases: Vec<Spanned<PathBuf>>,
    }
}

/// A database.
struct AddressDatabase(Reader<Vec<u8>>);

impl Content for AddressDatabase {
    const LIMIT: Limit = Limit::LookupBytes;

    fn parse(content: &[u8]) -> Result<Self, String> {
        let no = |_| "it is not a database in MaxMind's format".to_owned();
        let reader = Reader::from_source(content.to_vec()).map_err(no)?;
        // A tree that ends early is found by its outermost addresses.
        for address in [IpAddr::from([0; 4]), IpAddr::from([255; 4]), IpAddr::from([0xff; 16])] {
            if address.is_ipv4() || reader.metadata().ip_version == 6 {
                reader.lookup(address).map_err(no)?;
            }
        }
        Ok(Self(reader))
    }
}

/// A text or number that a database has for an address.
struct GeoField {
    key: ValueKey<String>,
    path: &'static [PathElement<'static>],
    is_number: bool,
}

const FIELDS: [GeoField; 6] = [
    GeoField {
        key: COUNTRY,
        path: &[PathElement::Key("country"), PathElement::Key("iso_code")],
        is_number: false,
    },
    GeoField {
        key: CONTINENT,
        path: &[PathElement::Key("continent"), PathElement::Key("code")],
        is_number: false,
    },
    GeoField {
        key: REGION,
        path: &[
            PathElement::Key("subdivisions"),
            PathElement::Index(0),
            PathElement::Key("iso_code"),
        ],
        is_number: false,
    },
    GeoField {
        key: CITY,
        path: &[PathElement::Key("city"), PathElement::Key("names"), PathElement::Key("en")],
        is_number: false,
    },
    GeoField { key: ASN, path: &[PathElement::Key("autonomous_system_number")], is_number: true },
    GeoField {
        key: ORGANIZATION,
        path: &[PathElement::Key("autonomous_system_organization")],
        is_number: false,
    },
];

impl AddressDatabase {
    /// The fields that the database has for an address.
    fn fields(&self, address: IpAddr) -> impl Iterator<Item = (&'static GeoField, String)> {
        const FIELDS_OF: &[GeoField] = &FIELDS;
        // What is damaged has no value.
        let found = self.0.lookup(address).ok().filter(|found| found.has_data());
        FIELDS_OF.iter().filter_map(move |field| {
            let found = found.as_ref()?;
            let text = if field.is_number {
                found.decode_path::<u32>(field.path).ok()??.to_string()
            } else {
                found.decode_path::<String>(field.path).ok()??
            };
            Some((field, text)).filter(|(_, text)| !text.is_empty())
        })
    }
}

impl PlanSettings for Geo {
    const NAME: &'static str = "geo";
    const HELP: &'static str =
        "Tells the country, city and network of clients, by databases in MaxMind's format.";

    fn values() -> &'static [ValueDef] {
        VALUES
    }

    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        if self.databases.is_empty() {
            let at = context.at.key("databases");
            let message = "`geo` has no database";
            let finding = context.diags.error("missing-field", settings.span, at, message);
            finding.help("write `geo: { databases: [GeoLite2-Country.mmdb] }`");
            return None;
        }
        let read = |path| context.file::<AddressDatabase>(path, "databases");
        let read: Vec<Option<Fetched<AddressDatabase>>> = self.databases.iter().map(read).collect();
        Some(Arc::new(GeoFilter(read.into_iter().collect::<Option<Arc<[_]>>>()?)))
    }
}

/// The plan, and the filter on each worker.
#[derive(Clone, Debug)]
struct GeoFilter(Arc<[Fetched<AddressDatabase>]>);

impl HttpFilterPlan for GeoFilter {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.clone())
    }
}

impl HttpFilter for GeoFilter {
    fn request_head(&self, cx: &mut Cx<'_>, _head: &mut Head) -> HeadStep {
        let Some(address) = cx.summary.source.ip() else { return HeadStep::Continue };
        let address = address.to_canonical();
        for database in self.0.iter().filter_map(Fetched::current) {
            for (field, text) in database.fields(address) {
                if cx.values.get(&field.key).is_none() {
                    cx.values.set(&field.key, text);
                }
            }
        }
        // Rules may match these values.
        cx.reroute();
        HeadStep::Continue
    }
}

#[cfg(test)]
mod tests {
    use sluice_testkit::mmdb::{MmdbValue, database};

    use super::*;

    fn cities() -> Vec<u8> {
        use MmdbValue::{List, Map, Number, Text};
        let of = |iso, city| {
            Map(vec![
                ("country", Map(vec![("iso_code", Text(iso))])),
                ("continent", Map(vec![("code", Text("EU"))])),
                ("city", Map(vec![("names", Map(vec![("en", Text(city))]))])),
                ("subdivisions", List(vec![Map(vec![("iso_code", Text("BE"))])])),
            ])
        };
        let network = Map(vec![
            ("autonomous_system_number", Number(64_500)),
            ("autonomous_system_organization", Text("Example Net")),
        ]);
        let blocks = [
            ("192.0.2.0".parse().unwrap(), 24, of("DE", "Berlin")),
            ("198.51.100.0".parse().unwrap(), 25, network),
            ("2001:db8::".parse().unwrap(), 32, of("FR", "")),
        ];
        database("Test", &blocks)
    }

    fn found(database: &AddressDatabase, address: &str) -> Vec<(&'static str, String)> {
        let fields = database.fields(address.parse().unwrap());
        fields.map(|(field, text)| (field.key.name(), text)).collect()
    }

    #[test]
    fn an_address_has_the_fields_of_its_block() {
        let database = AddressDatabase::parse(&cities()).unwrap();
        let of = |pairs: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
            pairs.iter().map(|(name, text)| (*name, (*text).to_owned())).collect()
        };
        let berlin = of(&[
            ("geo.country", "DE"),
            ("geo.continent", "EU"),
            ("geo.region", "BE"),
            ("geo.city", "Berlin"),
        ]);
        for (address, expected) in [
            ("192.0.2.0", berlin.clone()),
            ("192.0.2.255", berlin),
            ("198.51.100.127", of(&[("geo.asn", "64500"), ("geo.organization", "Example Net")])),
            ("198.51.100.128", Vec::new()),
            ("192.0.3.0", Vec::new()),
            (
                "2001:db8::1",
                of(&[("geo.country", "FR"), ("geo.continent", "EU"), ("geo.region", "BE")]),
            ),
            ("2001:db9::1", Vec::new()),
        ] {
            assert_eq!(found(&database, address), expected, "{address}");
        }
    }

    #[test]
    fn a_database_that_is_cut_or_damaged_is_an_error_or_has_other_values() {
        let whole = cities();
        let addresses = ["192.0.2.1", "198.51.100.1", "2001:db8::1", "255.255.255.255", "::"];
        for cut in 0..whole.len() {
            if let Ok(database) = AddressDatabase::parse(&whole[..cut]) {
                addresses.iter().for_each(|address| drop(found(&database, address)));
            }
        }
        for place in 0..whole.len() {
            for byte in [0, 0x1f, 0x20, 0x7f, 0xe5, 0xff] {
                let mut damaged = whole.clone();
                damaged[place] = byte;
                if let Ok(database) = AddressDatabase::parse(&damaged) {
                    addresses.iter().for_each(|address| drop(found(&database, address)));
                }
            }
        }
        assert!(AddressDatabase::parse(b"").is_err() && AddressDatabase::parse(b"x").is_err());
    }
}
