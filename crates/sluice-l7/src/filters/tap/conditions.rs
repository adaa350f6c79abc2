//! Whether a request is one of those that are recorded, as far as it has passed.
//!
//! Owns: conditions, and what has been found of each. Refuses to know: what is recorded. Keeps: what has been decided is not
//! decided again; a part that has not come yet does not match, and may yet.

use sluice_codec::Head;

use super::settings::{BodySearch, TapHeaders, TapMatch};
use crate::value_match::ValueMatch;

/// A side of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessagePart {
    Request,
    Response,
}

/// A condition, with a number for each part of it that is about a message.
#[derive(Clone, Debug)]
pub(super) struct TapFormula {
    node: FormulaNode,
    leaves: Vec<TapLeaf>,
}

#[derive(Clone, Debug)]
enum FormulaNode {
    Leaf(usize),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
}

#[derive(Clone, Debug)]
enum TapLeaf {
    Headers(MessagePart, TapHeaders),
    Trailers(MessagePart, TapHeaders),
    Body(MessagePart, BodySearch),
}

impl Default for TapFormula {
    /// Every request.
    fn default() -> Self {
        Self { node: FormulaNode::All(Vec::new()), leaves: Vec::new() }
    }
}

impl TapFormula {
    pub(super) fn of(wanted: &TapMatch) -> Self {
        let mut leaves = Vec::new();
        let node = node_of(wanted, &mut leaves);
        Self { node, leaves }
    }
}

fn node_of(wanted: &TapMatch, leaves: &mut Vec<TapLeaf>) -> FormulaNode {
    let TapMatch { request_headers, response_headers, request_trailers, response_trailers, .. } =
        wanted;
    let TapMatch { request_body, response_body, all, any, not, .. } = wanted;
    let named = |of: &TapHeaders, leaf: fn(MessagePart, TapHeaders) -> TapLeaf, part| {
        (!of.0.is_empty()).then(|| leaf(part, of.clone()))
    };
    let search = |of: &Option<BodySearch>, part| of.clone().map(|of| TapLeaf::Body(part, of));
    let own = [
        named(request_headers, TapLeaf::Headers, MessagePart::Request),
        named(response_headers, TapLeaf::Headers, MessagePart::Response),
        named(request_trailers, TapLeaf::Trailers, MessagePart::Request),
        named(response_trailers, TapLeaf::Trailers, MessagePart::Response),
        search(request_body, MessagePart::Request),
        search(response_body, MessagePart::Response),
    ];
    let mut parts = Vec::new();
    for leaf in own.into_iter().flatten() {
        parts.push(FormulaNode::Leaf(leaves.len()));
        leaves.push(leaf);
    }
    parts.extend(all.iter().map(|of| node_of(of, leaves)));
    if !any.is_empty() {
        parts.push(FormulaNode::Any(any.iter().map(|of| node_of(of, leaves)).collect()));
    }
    parts.extend(not.iter().map(|of| FormulaNode::Not(Box::new(node_of(of, leaves)))));
    FormulaNode::All(parts)
}

/// What is known of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TapStatus {
    pub(super) matches: bool,
    /// Whether that may change.
    pub(super) is_open: bool,
}

/// What has been found of a request.
#[derive(Debug)]
pub(super) struct TapProgress(Vec<LeafProgress>);

#[derive(Debug)]
enum LeafProgress {
    Open,
    Decided(bool),
    /// How much of a body has been looked at, what is still to be found, and the end of what was looked at.
    Searching {
        seen: u64,
        missing: Vec<Vec<u8>>,
        tail: Vec<u8>,
    },
}

impl TapProgress {
    pub(super) fn new(formula: &TapFormula) -> Self {
        let of = |leaf: &TapLeaf| match leaf {
            TapLeaf::Body(_, search) => LeafProgress::Searching {
                seen: 0,
                missing: search.patterns().map(<[u8]>::to_vec).collect(),
                tail: Vec::new(),
            },
            _ => LeafProgress::Open,
        };
        Self(formula.leaves.iter().map(of).collect())
    }

    pub(super) fn headers(&mut self, formula: &TapFormula, part: MessagePart, head: &Head) {
        self.decide(formula, |leaf| match leaf {
            TapLeaf::Headers(of, wanted) if *of == part => Some(fit(wanted, part, head)),
            _ => None,
        });
    }

    pub(super) fn trailers(&mut self, formula: &TapFormula, part: MessagePart, trailers: &Head) {
        self.decide(formula, |leaf| match leaf {
            TapLeaf::Trailers(of, wanted) if *of == part => {
                Some(wanted.0.iter().all(|(name, wanted)| fits_named(wanted, trailers, name)))
            }
            _ => None,
        });
    }

    fn decide(&mut self, formula: &TapFormula, decision: impl Fn(&TapLeaf) -> Option<bool>) {
        for (leaf, progress) in formula.leaves.iter().zip(&mut self.0) {
            if let (LeafProgress::Open, Some(fits)) = (&progress, decision(leaf)) {
                *progress = LeafProgress::Decided(fits);
            }
        }
    }

    pub(super) fn body(&mut self, formula: &TapFormula, part: MessagePart, bytes: &[u8]) {
        for (leaf, progress) in formula.leaves.iter().zip(&mut self.0) {
            let TapLeaf::Body(of, search) = leaf else { continue };
            if *of == part {
                progress.search(search, bytes);
            }
        }
    }

    pub(super) fn status(&self, formula: &TapFormula) -> TapStatus {
        self.status_of(&formula.node)
    }

    fn status_of(&self, node: &FormulaNode) -> TapStatus {
        let decided = |matches| TapStatus { matches, is_open: false };
        match node {
            FormulaNode::Leaf(number) => match &self.0[*number] {
                LeafProgress::Decided(fits) => decided(*fits),
                _ => TapStatus { matches: false, is_open: true },
            },
            FormulaNode::Not(inner) => {
                let TapStatus { matches, is_open } = self.status_of(inner);
                TapStatus { matches: !matches, is_open }
            }
            FormulaNode::All(inner) => self.combined(inner, false),
            FormulaNode::Any(inner) => self.combined(inner, true),
        }
    }

    /// The status of conditions of which one that is `deciding` decides.
    fn combined(&self, inner: &[FormulaNode], deciding: bool) -> TapStatus {
        let mut all = TapStatus { matches: !deciding, is_open: false };
        for one in inner {
            let status = self.status_of(one);
            if status.matches == deciding {
                all.matches = deciding;
                if !status.is_open {
                    return TapStatus { matches: deciding, is_open: false };
                }
            }
            all.is_open |= status.is_open;
        }
        all
    }
}

impl LeafProgress {
    fn search(&mut self, search: &BodySearch, bytes: &[u8]) {
        let Self::Searching { seen, missing, tail } = self else { return };
        let most = search.within.map_or(u64::MAX, |within| within.0);
        let left = usize::try_from(most - *seen).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(left)];
        *seen += bytes.len() as u64;
        let from = tail.len();
        tail.extend_from_slice(bytes);
        // What ends within what was looked at before has been found already.
        missing.retain(|wanted| {
            let at = (from + 1).saturating_sub(wanted.len());
            !tail[at..].windows(wanted.len().max(1)).any(|part| part == wanted.as_slice())
        });
        let keep = missing.iter().map(|wanted| wanted.len().saturating_sub(1)).max().unwrap_or(0);
        tail.drain(..tail.len().saturating_sub(keep));
        if missing.is_empty() {
            *self = Self::Decided(true);
        } else if *seen >= most {
            *self = Self::Decided(false);
        }
    }
}

/// Whether a head fulfils conditions, of which some may be about what HTTP/2 sends as headers.
fn fit(wanted: &TapHeaders, part: MessagePart, head: &Head) -> bool {
    wanted.0.iter().all(|(name, wanted)| {
        let status;
        let own = match (part, name.as_str()) {
            (MessagePart::Request, ":method") => head.method_text(),
            (MessagePart::Request, ":scheme") => head.scheme(),
            (MessagePart::Request, ":authority" | "host") => head.authority(),
            (MessagePart::Request, ":path") => head.path(),
            (MessagePart::Response, ":status") => {
                status = head.status().to_string();
                &status
            }
            _ => return fits_named(wanted, head, name),
        };
        wanted.fits(Some(own.as_bytes()))
    })
}

/// Whether one of the values of a header fulfils a condition, or its absence does.
fn fits_named(wanted: &ValueMatch, head: &Head, name: &str) -> bool {
    if let ValueMatch::Not(inner) = wanted {
        return !fits_named(inner, head, name);
    }
    let mut values = head.values(name.as_bytes()).peekable();
    match values.peek() {
        None => wanted.fits(None),
        Some(_) => values.any(|value| wanted.fits(Some(value))),
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::settings::Size;

    use super::*;

    fn search(contains: &[&str], within: Option<u64>) -> BodySearch {
        let contains = contains.iter().map(|text| (*text).to_owned()).collect();
        BodySearch { contains, contains_hex: Vec::new(), within: within.map(Size) }
    }

    fn found(search: &BodySearch, pieces: &[&str]) -> Option<bool> {
        let leaves = vec![TapLeaf::Body(MessagePart::Request, search.clone())];
        let formula = TapFormula { node: FormulaNode::Leaf(0), leaves };
        let mut progress = TapProgress::new(&formula);
        for piece in pieces {
            progress.body(&formula, MessagePart::Request, piece.as_bytes());
        }
        let TapStatus { matches, is_open } = progress.status(&formula);
        (!is_open).then_some(matches)
    }

    #[test]
    fn a_body_is_searched_however_it_is_cut() {
        let text = "say abcab here";
        for wanted in [&["abcab"][..], &["say", "here"], &["bc", "ab"], &["s"]] {
            for at in 0..=text.len() {
                for to in at..=text.len() {
                    let pieces = [&text[..at], &text[at..to], &text[to..]];
                    assert_eq!(found(&search(wanted, None), &pieces), Some(true), "{pieces:?}");
                    let early = found(&search(&["her"], Some(11)), &pieces);
                    assert_eq!(early, Some(false), "{pieces:?}");
                }
            }
        }
        assert_eq!(found(&search(&["abd"], None), &["ab", "c", "abd"]), Some(true));
        assert_eq!(found(&search(&["none"], None), &["ab", "c", "abd"]), None);
    }

    #[test]
    fn what_has_not_come_may_yet_match() {
        let not = TapFormula {
            node: FormulaNode::Not(Box::new(FormulaNode::Leaf(0))),
            leaves: vec![TapLeaf::Headers(MessagePart::Response, TapHeaders::default())],
        };
        let mut progress = TapProgress::new(&not);
        assert_eq!(progress.status(&not), TapStatus { matches: true, is_open: true });
        progress.headers(&not, MessagePart::Response, &Head::response(200));
        assert_eq!(progress.status(&not), TapStatus { matches: false, is_open: false });
        let all = TapFormula::default();
        let status = TapProgress::new(&all).status(&all);
        assert_eq!(status, TapStatus { matches: true, is_open: false });
    }
}
