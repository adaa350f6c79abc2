//! Which chain serves a connection.
//!
//! Owns: the criteria of chains and the index over them. Refuses to know: what a chain does. Keeps: Envoy's rule, so
//! that configurations translate one to one: step by step in a fixed order, the chains that do not match are dropped,
//! and of the rest only the most specific stay; there is no backtracking. Two chains with equal criteria are an error
//! that building reports.
//!
//! The steps: destination port, destination prefix, server name (exact, then the longest wildcard), transport, ALPN,
//! protocol, the facts of the protocol that chains match by words (PostgreSQL database, PostgreSQL user), source prefix,
//! source port.

use std::collections::HashMap;
use std::net::IpAddr;

use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::value::{NamePattern, WordPattern};
use sluice_core::{Cidr, Facts, Protocol, TransportKind};

use crate::inspect::{WordFact, tls, word_facts};

#[cfg(test)]
mod tests;

/// What a chain matches. An empty list matches anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// Destination ports.
    pub ports: Vec<u16>,
    /// Destination addresses.
    pub destinations: Vec<Cidr>,
    /// Server names.
    pub names: Vec<NamePattern>,
    /// Transports: plain, TLS or QUIC.
    pub transports: Vec<TransportKind>,
    /// ALPN protocols; the client offers at least one of them.
    pub alpn: Vec<Vec<u8>>,
    /// The protocol of the stream.
    pub protocols: Vec<Protocol>,
    /// Words that facts of the protocol have, such as a database.
    pub words: Vec<(&'static WordFact, Vec<WordPattern>)>,
    /// Source addresses.
    pub sources: Vec<Cidr>,
    /// Source ports.
    pub source_ports: Vec<u16>,
}

/// What is known about a connection when its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct ChainInput<'a> {
    /// The destination.
    pub destination: Option<(IpAddr, u16)>,
    /// The source.
    pub source: Option<(IpAddr, u16)>,
    /// What its first bytes revealed.
    pub facts: &'a Facts,
}

impl<'a> ChainInput<'a> {
    /// A connection with the facts from its first bytes.
    pub fn of(info: &ConnInfo, facts: &'a Facts) -> Self {
        let pair = |peer: Peer| peer.socket().map(|end| (end.ip(), end.port()));
        Self { destination: pair(info.destination()), source: pair(info.source()), facts }
    }
}

/// The steps, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MatchStep {
    Port,
    Destination,
    Name,
    Transport,
    Alpn,
    Protocol,
    Word(&'static WordFact),
    Source,
    SourcePort,
}

impl MatchStep {
    /// Every step, with those for the facts of each protocol.
    fn all() -> Vec<Self> {
        let before = [
            Self::Port,
            Self::Destination,
            Self::Name,
            Self::Transport,
            Self::Alpn,
            Self::Protocol,
        ];
        let words = word_facts().map(Self::Word);
        before.into_iter().chain(words).chain([Self::Source, Self::SourcePort]).collect()
    }
}

impl Criteria {
    /// How exactly the names cover a server name in lower case: 0 if there are none, which covers every name; `None` if they
    /// do not cover it.
    pub fn name_fit(&self, name: &str) -> Option<usize> {
        if self.names.is_empty() {
            return Some(0);
        }
        let fits = self.names.iter().filter(|pattern| pattern.fits(name));
        fits.map(|pattern| match pattern {
            NamePattern::Exact(_) => usize::MAX,
            NamePattern::Suffix(suffix) => suffix.len(),
        })
        .max()
    }

    /// Whether encrypted connections can fit.
    pub fn takes_encrypted(&self) -> bool {
        self.transports.is_empty() || self.transports.iter().any(|of| *of != TransportKind::Plain)
    }

    /// Whether all encrypted connections that these names and the transports of `other` cover fit.
    pub fn is_by_name_only(&self, other: &Self) -> bool {
        let Self {
            ports,
            destinations,
            names: _,
            transports: _,
            alpn,
            protocols,
            words,
            sources,
            source_ports,
        } = self;
        let lists = [ports.len(), destinations.len(), alpn.len(), protocols.len(), words.len()];
        let covers = |transport: &TransportKind| self.transports.contains(transport);
        let transports = self.transports.is_empty() || other.transports.iter().all(covers);
        let any_source = sources.is_empty() && source_ports.is_empty();
        self.takes_encrypted() && transports && lists == [0; 5] && any_source
    }

    /// The words that a fact must have; none if it may have any.
    fn words_of(&self, fact: &'static WordFact) -> &[WordPattern] {
        let words = self.words.iter().find(|(of, _)| *of == fact);
        words.map_or(&[], |(_, words)| words)
    }
}

/// An index over the criteria of the chains of a listener.
#[derive(Debug)]
pub struct ChainTable {
    root: Option<Branch>,
}

#[derive(Debug)]
enum Branch {
    Chain(usize),
    MatchStep(Box<StepNode>),
}

#[derive(Debug)]
struct StepNode {
    table: StepTable,
    any: Option<Branch>,
}

#[derive(Debug)]
enum StepTable {
    Port {
        of_source: bool,
        by_port: HashMap<u16, Branch>,
    },
    /// By prefix length, longest first.
    Block {
        of_source: bool,
        lengths: Vec<u8>,
        by_block: HashMap<Cidr, Branch>,
    },
    Name {
        exact: HashMap<String, Branch>,
        suffix: HashMap<String, Branch>,
    },
    Transport(Vec<(TransportKind, Branch)>),
    Alpn(HashMap<Vec<u8>, Branch>),
    Protocol(Vec<(Protocol, Branch)>),
    /// Prefixes, longest first.
    Word {
        fact: &'static WordFact,
        exact: HashMap<String, Branch>,
        prefix: Vec<(String, Branch)>,
    },
}

impl ChainTable {
    /// Builds the index; a chain is identified by its position in `chains`.
    ///
    /// # Errors
    /// Pairs of chains whose criteria are equal in some combination of their values.
    pub fn build(chains: &[Criteria]) -> Result<Self, Vec<(usize, usize)>> {
        let mut equal = Vec::new();
        let all: Vec<usize> = (0..chains.len()).collect();
        let root = build(chains, &all, &MatchStep::all(), &mut equal);
        equal.sort_unstable();
        equal.dedup();
        if equal.is_empty() { Ok(Self { root }) } else { Err(equal) }
    }

    /// The chain for a connection, if one matches.
    pub fn find(&self, subject: &ChainInput<'_>) -> Option<usize> {
        self.find_named(subject, subject.facts.get(&tls::SNI))
    }

    /// The chain that `subject` would get with `name`, in lower case, as its server name.
    pub fn find_named(&self, subject: &ChainInput<'_>, name: Option<&str>) -> Option<usize> {
        let mut branch = self.root.as_ref()?;
        loop {
            match branch {
                Branch::Chain(index) => return Some(*index),
                Branch::MatchStep(node) => {
                    branch = node.table.find(subject, name).or(node.any.as_ref())?;
                }
            }
        }
    }
}

/// Whether a chain has values for a step.
fn has_values(chain: &Criteria, step: MatchStep) -> bool {
    match step {
        MatchStep::Port => !chain.ports.is_empty(),
        MatchStep::Destination => !chain.destinations.is_empty(),
        MatchStep::Name => !chain.names.is_empty(),
        MatchStep::Transport => !chain.transports.is_empty(),
        MatchStep::Alpn => !chain.alpn.is_empty(),
        MatchStep::Protocol => !chain.protocols.is_empty(),
        MatchStep::Word(fact) => !chain.words_of(fact).is_empty(),
        MatchStep::Source => !chain.sources.is_empty(),
        MatchStep::SourcePort => !chain.source_ports.is_empty(),
    }
}

fn build(
    chains: &[Criteria],
    candidates: &[usize],
    steps: &[MatchStep],
    equal: &mut Vec<(usize, usize)>,
) -> Option<Branch> {
    let Some((step, rest)) = steps.split_first() else {
        let (first, others) = candidates.split_first()?;
        equal.extend(others.iter().map(|other| (*first, *other)));
        return Some(Branch::Chain(*first));
    };
    let (named, any): (Vec<usize>, Vec<usize>) =
        candidates.iter().partition(|index| has_values(&chains[**index], *step));
    if named.is_empty() {
        return build(chains, candidates, rest, equal);
    }
    let table = table(chains, &named, *step, rest, equal);
    let any = build(chains, &any, rest, equal);
    Some(Branch::MatchStep(Box::new(StepNode { table, any })))
}

fn table(
    chains: &[Criteria],
    named: &[usize],
    step: MatchStep,
    rest: &[MatchStep],
    equal: &mut Vec<(usize, usize)>,
) -> StepTable {
    match step {
        MatchStep::Port | MatchStep::SourcePort => {
            let of_source = step == MatchStep::SourcePort;
            let values =
                |c: &Criteria| if of_source { c.source_ports.clone() } else { c.ports.clone() };
            StepTable::Port {
                of_source,
                by_port: group(chains, named, rest, equal, values).collect(),
            }
        }
        MatchStep::Destination | MatchStep::Source => {
            let of_source = step == MatchStep::Source;
            let values =
                |c: &Criteria| if of_source { c.sources.clone() } else { c.destinations.clone() };
            let by_block: HashMap<Cidr, Branch> =
                group(chains, named, rest, equal, values).collect();
            let mut lengths: Vec<u8> = by_block.keys().map(Cidr::bits).collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
            StepTable::Block { of_source, lengths, by_block }
        }
        MatchStep::Name => {
            let (mut exact, mut suffix) = (HashMap::new(), HashMap::new());
            for (name, branch) in group(chains, named, rest, equal, |c| c.names.clone()) {
                match name {
                    NamePattern::Exact(name) => exact.insert(name, branch),
                    NamePattern::Suffix(name) => suffix.insert(name, branch),
                };
            }
            StepTable::Name { exact, suffix }
        }
        MatchStep::Transport => StepTable::Transport(
            group(chains, named, rest, equal, |c| c.transports.clone()).collect(),
        ),
        MatchStep::Alpn => {
            StepTable::Alpn(group(chains, named, rest, equal, |c| c.alpn.clone()).collect())
        }
        MatchStep::Protocol => StepTable::Protocol(
            group(chains, named, rest, equal, |c| c.protocols.clone()).collect(),
        ),
        MatchStep::Word(fact) => {
            // Both sides are words as the server reads them.
            let values = |c: &Criteria| {
                c.words_of(fact).iter().map(|word| as_server_reads_it(word, fact)).collect()
            };
            let (mut exact, mut prefix) = (HashMap::new(), Vec::new());
            for (word, branch) in group(chains, named, rest, equal, values) {
                match word {
                    WordPattern::Exact(word) => drop(exact.insert(word, branch)),
                    WordPattern::Prefix(word) => prefix.push((word, branch)),
                }
            }
            prefix.sort_by_key(|(word, _): &(String, _)| std::cmp::Reverse(word.len()));
            StepTable::Word { fact, exact, prefix }
        }
    }
}

fn as_server_reads_it(pattern: &WordPattern, fact: &WordFact) -> WordPattern {
    match pattern {
        WordPattern::Exact(word) => WordPattern::Exact((fact.as_read)(word.as_bytes())),
        WordPattern::Prefix(word) => WordPattern::Prefix((fact.as_read)(word.as_bytes())),
    }
}

/// Returns a branch for each value that any of the chains has.
fn group<V: Eq + std::hash::Hash + Ord + Clone>(
    chains: &[Criteria],
    named: &[usize],
    rest: &[MatchStep],
    equal: &mut Vec<(usize, usize)>,
    values: impl Fn(&Criteria) -> Vec<V>,
) -> std::vec::IntoIter<(V, Branch)> {
    let mut groups: std::collections::BTreeMap<V, Vec<usize>> = std::collections::BTreeMap::new();
    for index in named {
        let mut own = values(&chains[*index]);
        own.sort_unstable();
        own.dedup();
        own.into_iter().for_each(|value| groups.entry(value).or_default().push(*index));
    }
    let branches: Vec<(V, Branch)> = groups
        .into_iter()
        .filter_map(|(value, members)| Some((value, build(chains, &members, rest, equal)?)))
        .collect();
    branches.into_iter()
}

impl StepTable {
    fn find(&self, subject: &ChainInput<'_>, name: Option<&str>) -> Option<&Branch> {
        let side = |of_source: bool| if of_source { subject.source } else { subject.destination };
        match self {
            Self::Port { of_source, by_port } => by_port.get(&side(*of_source)?.1),
            Self::Block { of_source, lengths, by_block } => {
                let address = side(*of_source)?.0.to_canonical();
                lengths.iter().find_map(|bits| by_block.get(&Cidr::around(address, *bits)))
            }
            Self::Name { exact, suffix } => {
                let name = name?;
                exact.get(name).or_else(|| {
                    let parents = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
                    parents.filter_map(|parent| suffix.get(parent)).next()
                })
            }
            Self::Transport(branches) => {
                let transport = subject.facts.transport;
                branches.iter().find(|(value, _)| *value == transport).map(|(_, branch)| branch)
            }
            Self::Alpn(by_alpn) => {
                subject.facts.get(&tls::OFFERS)?.iter().find_map(|offer| by_alpn.get(offer))
            }
            Self::Protocol(branches) => {
                let protocol = subject.facts.protocol?;
                branches.iter().find(|(value, _)| *value == protocol).map(|(_, branch)| branch)
            }
            Self::Word { fact, exact, prefix } => {
                let word = subject.facts.get(&fact.key)?;
                exact.get(word).or_else(|| {
                    prefix
                        .iter()
                        .find(|(start, _)| word.starts_with(start))
                        .map(|(_, branch)| branch)
                })
            }
        }
    }
}
