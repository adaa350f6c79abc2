//! Health discovery (HDS): a plane names endpoints, and is told whether they are healthy.
//!
//! Owns: what is asked for, in which form it is checked, and the results in the form of the protocol. Refuses to know: sockets,
//! clocks, how something is checked. Keeps: what is asked for is bounded before anything of it is used; a result is told
//! under the cluster, the locality and the endpoint that it was asked under.
//!
//! Each health check of each cluster becomes a cluster in Envoy's form ([`CheckedCluster::encoded`]), which is checked as any other is.
//!
//! Source: `envoy/service/health/v3/hds.proto`; Envoy, `health_discovery_service.cc`.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::messages::TtlMessage;
use crate::messages::health::{
    CheckMessage, CheckedAssignment, CheckedClusterMessage, CheckedEndpoint, CheckedLocality,
    ClusterChecks, ClusterHealth, EndpointHealth, EndpointMessage, HealthAnswer, HealthCapability,
    HealthGreeting, HealthResults, HealthSpecifier, LocalityHealth,
};
use crate::messages::load_stats::{LocalityMessage, PlaneAddress};

/// The shortest time between two answers, whatever the plane wants.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The time between two answers if the plane does not say: that of Envoy.
const INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two checks of an endpoint.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// How long a connection may take: that of Envoy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The kinds of checks that are offered: HTTP and TCP.
const CAPABILITIES: [i32; 2] = [0, 1];

/// What is known of the health of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckedHealth {
    /// All checks succeed.
    Healthy,
    /// A check has no result yet.
    Unknown,
    /// A check fails by its time-out.
    Timeout,
    /// A check fails.
    Unhealthy,
}

impl CheckedHealth {
    /// The number of `HealthStatus`.
    const fn number(self) -> i32 {
        match self {
            Self::Unknown => 0,
            Self::Healthy => 1,
            Self::Unhealthy => 2,
            Self::Timeout => 4,
        }
    }
}

/// An endpoint that is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedEndpoint {
    /// Its address.
    pub address: PlaneAddress,
    /// As it came.
    encoded: Bytes,
}

/// A cluster whose endpoints are to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedCluster {
    /// Its name at the plane.
    pub name: String,
    localities: Vec<(Option<LocalityMessage>, Vec<AskedEndpoint>)>,
    checks: Vec<Bytes>,
    sockets: Vec<Bytes>,
    bind: Option<Bytes>,
}

/// Everything that is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedHealth {
    /// The time between two answers.
    pub interval: Duration,
    /// The clusters.
    pub clusters: Vec<CheckedCluster>,
}

/// The first message of a stream. `node` is encoded.
pub fn greeting(node: &Bytes) -> HealthAnswer {
    let capability = HealthCapability { health_check_protocols: CAPABILITIES.to_vec() };
    let greeting = HealthGreeting { node: Some(node.clone()), capability: Some(capability) };
    HealthAnswer { health_check_request: Some(greeting), endpoint_health_response: None }
}

impl AskedHealth {
    /// What a plane asks for; at most `most` checks of endpoints.
    ///
    /// # Errors
    /// It cannot be used: why.
    pub fn of(specifier: HealthSpecifier, most: usize) -> Result<Self, String> {
        let HealthSpecifier { cluster_health_checks, interval } = specifier;
        let interval = interval.and_then(TtlMessage::time).unwrap_or(INTERVAL).max(INTERVAL_MIN);
        let (mut clusters, mut names, mut count) = (Vec::new(), BTreeSet::new(), 0);
        for of in cluster_health_checks {
            let cluster = CheckedCluster::of(of)?;
            if !names.insert(cluster.name.clone()) {
                return Err(format!("two clusters are named `{}`", cluster.name));
            }
            let endpoints: usize = cluster.localities.iter().map(|(_, of)| of.len()).sum();
            count += endpoints.saturating_mul(cluster.checks.len()).max(1);
            if count > most {
                return Err(format!("it has more than {most} checks of endpoints"));
            }
            clusters.push(cluster);
        }
        Ok(Self { interval, clusters })
    }

    /// The results, with `health` of each endpoint by the place of its cluster.
    pub fn answer(&self, health: impl Fn(usize, &AskedEndpoint) -> CheckedHealth) -> HealthAnswer {
        let mut results = HealthResults::default();
        for (place, cluster) in self.clusters.iter().enumerate() {
            let localities = cluster.localities.iter().map(|(locality, endpoints)| {
                let of = |endpoint: &AskedEndpoint| EndpointHealth {
                    endpoint: Some(endpoint.encoded.clone()),
                    health_status: health(place, endpoint).number(),
                };
                let endpoints_health = endpoints.iter().map(of).collect();
                LocalityHealth { locality: locality.clone(), endpoints_health }
            });
            let localities: Vec<LocalityHealth> = localities.collect();
            // Servers of before have a list of all alone.
            let all = localities.iter().flat_map(|of| of.endpoints_health.iter().cloned());
            results.endpoints_health.extend(all);
            results.cluster_endpoints_health.push(ClusterHealth {
                cluster_name: cluster.name.clone(),
                locality_endpoints_health: localities,
            });
        }
        HealthAnswer { health_check_request: None, endpoint_health_response: Some(results) }
    }
}

impl CheckedCluster {
    fn of(of: ClusterChecks) -> Result<Self, String> {
        let ClusterChecks {
            cluster_name,
            health_checks,
            locality_endpoints,
            transport_socket_matches: sockets,
            upstream_bind_config: bind,
        } = of;
        if cluster_name.is_empty() {
            return Err("a cluster has no name".to_owned());
        }
        let wrong = |what: &str, error: prost::DecodeError| {
            format!("{what} of the cluster `{cluster_name}` cannot be decoded: {error}")
        };
        let mut checks = Vec::new();
        for encoded in health_checks {
            let check = CheckMessage::decode(encoded.clone()).map_err(|of| wrong("a check", of))?;
            let every = check.interval.and_then(TtlMessage::time);
            if every.is_none_or(|every| every < CHECK_INTERVAL_MIN) {
                let least = CHECK_INTERVAL_MIN.as_millis();
                return Err(format!(
                    "a check of the cluster `{cluster_name}` needs an `interval` of at least {least} ms"
                ));
            }
            checks.push(at_its_interval(encoded, &check));
        }
        let mut localities = Vec::new();
        for group in locality_endpoints {
            let mut endpoints = Vec::new();
            for encoded in group.endpoints {
                let endpoint = EndpointMessage::decode(encoded.clone())
                    .map_err(|of| wrong("an endpoint", of))?;
                let address = endpoint.address.unwrap_or_default();
                endpoints.push(AskedEndpoint { address, encoded });
            }
            localities.push((group.locality, endpoints));
        }
        Ok(Self { name: cluster_name, localities, checks, sockets, bind })
    }

    /// How many checks each endpoint has.
    pub const fn checks(&self) -> usize {
        self.checks.len()
    }

    /// A cluster of this name in Envoy's form, with one of the checks.
    pub fn encoded(&self, name: &str, check: usize) -> Vec<u8> {
        let groups = self.localities.iter().map(|(locality, endpoints)| {
            let of = |endpoint: &AskedEndpoint| CheckedEndpoint {
                endpoint: Some(endpoint.encoded.clone()),
            };
            let lb_endpoints = endpoints.iter().map(of).collect();
            CheckedLocality { locality: locality.clone(), lb_endpoints }
        });
        let check = self.checks.get(check).cloned();
        let http2 = check.as_ref().is_some_and(needs_http2);
        let message = CheckedClusterMessage {
            name: name.to_owned(),
            connect_timeout: Some(TtlMessage::of(CONNECT_TIMEOUT)),
            health_checks: check.into_iter().collect(),
            http2_protocol_options: http2.then(Bytes::new),
            load_assignment: Some(CheckedAssignment {
                cluster_name: name.to_owned(),
                endpoints: groups.collect(),
            }),
            transport_socket_matches: self.sockets.clone(),
            upstream_bind_config: self.bind.clone(),
        };
        message.encode_to_vec()
    }
}

/// A check that is made at its `interval`, although the endpoint has no traffic from here.
fn at_its_interval(encoded: Bytes, check: &CheckMessage) -> Bytes {
    if check.no_traffic_interval.is_some() {
        return encoded;
    }
    let mut whole = encoded.to_vec();
    let more = CheckMessage { no_traffic_interval: check.interval, ..CheckMessage::default() };
    whole.extend(more.encode_to_vec());
    whole.into()
}

/// Whether a check is a request over HTTP/2.
fn needs_http2(encoded: &Bytes) -> bool {
    CheckMessage::decode(encoded.clone()).is_ok_and(|check| {
        let over_http2 = check.http_health_check.is_some_and(|of| of.codec_client_type == 1);
        check.grpc_health_check.is_some() || over_http2
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::health::LocalityEndpoints;
    use crate::messages::load_stats::PlaneSocketAddress;

    fn endpoint(port: u32) -> Bytes {
        let socket = PlaneSocketAddress { address: "127.0.0.1".into(), port_value: port };
        let address = PlaneAddress { socket_address: Some(socket), pipe: None };
        EndpointMessage { address: Some(address) }.encode_to_vec().into()
    }

    fn check(millis: i32) -> CheckMessage {
        let interval = Some(TtlMessage { seconds: 0, nanos: millis * 1_000_000 });
        CheckMessage { interval, ..CheckMessage::default() }
    }

    fn specifier(checks: &[CheckMessage], ports: &[u32]) -> HealthSpecifier {
        let zone = LocalityMessage { zone: "z".into(), ..LocalityMessage::default() };
        let endpoints = ports.iter().map(|port| endpoint(*port)).collect();
        let of = ClusterChecks {
            cluster_name: "c".into(),
            health_checks: checks.iter().map(|of| of.encode_to_vec().into()).collect(),
            locality_endpoints: vec![LocalityEndpoints { locality: Some(zone), endpoints }],
            ..ClusterChecks::default()
        };
        HealthSpecifier { cluster_health_checks: vec![of], interval: None }
    }

    #[test]
    fn each_check_is_a_cluster_with_the_endpoints() {
        let grpc = CheckMessage { grpc_health_check: Some(Bytes::new()), ..check(500) };
        let asked = AskedHealth::of(specifier(&[check(500), grpc], &[1, 2]), 4).unwrap();
        assert_eq!((asked.interval, asked.clusters[0].checks()), (INTERVAL, 2));
        for (place, http2) in [(0, false), (1, true)] {
            let encoded = asked.clusters[0].encoded("own", place);
            let made = CheckedClusterMessage::decode(&*encoded).unwrap();
            assert_eq!((&*made.name, made.http2_protocol_options.is_some()), ("own", http2));
            let [group] = made.load_assignment.as_ref().unwrap().endpoints.as_slice() else {
                panic!("{made:?}")
            };
            assert_eq!(group.locality.as_ref().unwrap().zone, "z");
            assert_eq!(group.lb_endpoints[1].endpoint, Some(endpoint(2)));
            let made = CheckMessage::decode(made.health_checks[0].clone()).unwrap();
            assert_eq!(made.no_traffic_interval, made.interval);
        }
    }

    #[test]
    fn results_are_told_under_what_was_asked() {
        let asked = AskedHealth::of(specifier(&[check(500)], &[1, 2, 3, 4]), 4).unwrap();
        let answer = asked.answer(|cluster, endpoint| {
            assert_eq!(cluster, 0);
            match endpoint.address.socket_address.as_ref().unwrap().port_value {
                1 => CheckedHealth::Healthy,
                2 => CheckedHealth::Unhealthy,
                3 => CheckedHealth::Timeout,
                _ => CheckedHealth::Unknown,
            }
        });
        let results = answer.endpoint_health_response.unwrap();
        let numbers =
            |of: &[EndpointHealth]| of.iter().map(|of| of.health_status).collect::<Vec<_>>();
        assert_eq!(numbers(&results.endpoints_health), [1, 2, 4, 0]);
        let [cluster] = results.cluster_endpoints_health.as_slice() else { panic!("{results:?}") };
        let [group] = cluster.locality_endpoints_health.as_slice() else { panic!("{cluster:?}") };
        assert_eq!(numbers(&group.endpoints_health), [1, 2, 4, 0]);
        assert_eq!(group.endpoints_health[0].endpoint, Some(endpoint(1)));
    }

    #[test]
    fn what_is_hostile_is_refused_as_a_whole() {
        let refused = |specifier, most| AskedHealth::of(specifier, most).unwrap_err();
        let many = refused(specifier(&[check(500), check(500)], &[1, 2]), 3);
        assert_eq!(many, "it has more than 3 checks of endpoints");
        // Clusters without endpoints count as well.
        let none = || specifier(&[], &[]).cluster_health_checks.remove(0);
        let named = |number: usize| ClusterChecks { cluster_name: number.to_string(), ..none() };
        let crowd = |count| HealthSpecifier {
            cluster_health_checks: (0..count).map(named).collect(),
            interval: None,
        };
        assert!(AskedHealth::of(crowd(3), 3).is_ok());
        refused(crowd(4), 3);
        assert!(refused(specifier(&[check(99)], &[1]), 9).contains("at least 100 ms"));
        assert!(refused(specifier(&[CheckMessage::default()], &[1]), 9).contains("`interval`"));
        let twice = HealthSpecifier { cluster_health_checks: vec![none(), none()], interval: None };
        assert_eq!(refused(twice, 9), "two clusters are named `c`");
        let mut garbage = specifier(&[check(500)], &[1]);
        garbage.cluster_health_checks[0].health_checks[0] = Bytes::from_static(&[0xff]);
        assert!(refused(garbage, 9).contains("cannot be decoded"));
        let mut fast = specifier(&[], &[]);
        fast.interval = Some(TtlMessage { seconds: 0, nanos: 1 });
        assert_eq!(AskedHealth::of(fast, 9).unwrap().interval, INTERVAL_MIN);
    }
}
