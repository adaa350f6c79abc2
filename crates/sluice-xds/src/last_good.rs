//! What planes said last, as bytes that outlive the process.
//!
//! Owns: what is kept of a resource, and whom it is for. Refuses to know: files, clocks, what a resource says. Keeps: what
//! is of another node or version, too old or not whole is not used.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::XdsType;
use crate::messages::{KeptMessage, KeptResource, NodeMessage};

/// How old it may be.
pub const LAST_GOOD_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How it begins.
const MAGIC: &[u8] = b"sluice last good 1\n";

/// Who keeps resources: a process of the same version that planes know by the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    /// The node, encoded.
    pub node: Bytes,
    /// The version of the program.
    pub program: &'static str,
}

/// A resource that was in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptVersion {
    /// Its type.
    pub kind: XdsType,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its message, encoded.
    pub body: Bytes,
}

impl Keeper {
    fn names(&self) -> (String, String) {
        let node = NodeMessage::decode(self.node.clone()).unwrap_or_default();
        (node.id, node.cluster)
    }

    /// The bytes for these resources; `wall` is the time since the Unix epoch.
    pub fn encode(&self, wall: Duration, resources: Vec<KeptVersion>) -> Vec<u8> {
        let (node_id, node_cluster) = self.names();
        let resources = resources.into_iter().map(|of| KeptResource {
            type_url: of.kind.url().to_owned(),
            name: of.name,
            version: of.version,
            body: of.body,
        });
        let kept = KeptMessage {
            node_id,
            node_cluster,
            program: self.program.to_owned(),
            saved: wall.as_secs(),
            resources: resources.collect(),
            whole: true,
        };
        [MAGIC, &kept.encode_to_vec()].concat()
    }

    /// The resources in these bytes, and when they were kept.
    ///
    /// # Errors
    /// Why they are not used.
    pub fn decode(
        &self,
        bytes: &Bytes,
        wall: Duration,
    ) -> Result<(Duration, Vec<KeptVersion>), String> {
        let unfit = || "it is not a file of this kind, or not whole".to_owned();
        if !bytes.starts_with(MAGIC) {
            return Err(unfit());
        }
        let kept = KeptMessage::decode(bytes.slice(MAGIC.len()..)).map_err(|_| unfit())?;
        if !kept.whole {
            return Err(unfit());
        }
        let (id, cluster) = self.names();
        if (&id, &cluster) != (&kept.node_id, &kept.node_cluster) {
            return Err(format!(
                "it is of the node `{}` of the cluster `{}`, and this one is `{id}` of `{cluster}`",
                kept.node_id, kept.node_cluster
            ));
        }
        if kept.program != self.program {
            return Err(format!(
                "it was written by version {}, and this is {}",
                kept.program, self.program
            ));
        }
        let saved = Duration::from_secs(kept.saved);
        // The clock of a machine may have been wrong.
        let age = wall.max(saved) - wall.min(saved);
        if age > LAST_GOOD_AGE_MAX {
            let hours = age.as_secs() / 3600;
            let max = LAST_GOOD_AGE_MAX.as_secs() / 3600;
            return Err(format!("it is {hours} hours old, and may be {max}"));
        }
        let resources = kept.resources.into_iter().filter_map(|of| {
            let kind = XdsType::of_url(&of.type_url)?;
            Some(KeptVersion { kind, name: of.name, version: of.version, body: of.body })
        });
        Ok((saved, resources.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(id: &str, program: &'static str) -> Keeper {
        let node = NodeMessage { id: id.to_owned(), cluster: "c".to_owned() };
        Keeper { node: node.encode_to_vec().into(), program }
    }

    fn one() -> Vec<KeptVersion> {
        let (name, version) = ("a".to_owned(), "1".to_owned());
        vec![KeptVersion { kind: XdsType::Cluster, name, version, body: Bytes::from_static(b"x") }]
    }

    #[test]
    fn only_the_same_node_and_version_get_it_back_in_time() {
        let (own, now) = (keeper("a", "1"), Duration::from_secs(1_000_000_000));
        let bytes = Bytes::from(own.encode(now, one()));
        assert_eq!(own.decode(&bytes, now), Ok((now, one())));
        assert!(own.decode(&bytes, now + LAST_GOOD_AGE_MAX).is_ok());
        let why = |keeper: Keeper, at| keeper.decode(&bytes, at).expect_err("it is not for this");
        assert!(why(keeper("b", "1"), now).starts_with("it is of the node `a` of the cluster `c`"));
        assert!(why(keeper("a", "2"), now).starts_with("it was written by version 1"));
        let late = now + LAST_GOOD_AGE_MAX + Duration::from_secs(1);
        assert_eq!(why(own.clone(), late), "it is 168 hours old, and may be 168");
        assert!(own.decode(&bytes, Duration::ZERO).is_err(), "it is of the future");
        for end in 0..bytes.len() {
            assert!(own.decode(&bytes.slice(..end), now).is_err(), "cut at {end}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let mut other = bytes.to_vec();
            let at = random.usize(..other.len());
            other[at] = random.u8(..);
            let _ = own.decode(&other.into(), now);
        }
    }
}
