//! Prefers the endpoints of one zone, of which the least loaded gets the request; without one that can be used, the least loaded of
//! the others does.
//!
//! ```sh
//! cargo build --release -p sluice-sdk --example nearest    # target/release/examples/libnearest.so
//! ```
//!
//! ```yaml
//! clusters:
//!   app:
//!     endpoints: [{ address: 10.0.0.1:80, locality: eu-1a }, { address: 10.0.1.1:80, locality: eu-1b }]
//!     balance: { module: { library: ./libnearest.so, config: eu-1a } }
//! ```
#![forbid(unsafe_code)]

use sluice_sdk::{Balancer, Config, Endpoints, Pick};

/// The zone.
struct Nearest(String);

impl Balancer for Nearest {
    /// Which of the endpoints are in the zone.
    type Table = Vec<bool>;

    fn new(_: &mut Config<'_>, _: &str, zone: &str) -> Result<Self, String> {
        if zone.is_empty() { Err("a zone is needed".into()) } else { Ok(Self(zone.into())) }
    }

    fn begin(&self, endpoints: &Endpoints<'_>) -> Option<Vec<bool>> {
        let is_near = |index| endpoints.locality(index) == Some(self.0.as_bytes());
        Some((0..endpoints.len()).map(is_near).collect())
    }

    fn pick(&self, near: &Vec<bool>, pick: &Pick<'_>) -> Option<usize> {
        let least = |wanted| {
            let open =
                (0..near.len()).filter(|index| near[*index] == wanted && pick.is_open(*index));
            open.min_by_key(|index| pick.endpoints().load(*index))
        };
        least(true).or_else(|| least(false))
    }
}

sluice_sdk::balancer_module!("nearest 1.0", Nearest);
