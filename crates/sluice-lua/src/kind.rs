//! What scripts are for: requests, or connections.
//!
//! Owns: the functions that a script of each kind defines, and the interface that it has. Refuses to know: how a function is
//! run. Keeps: a script that defines none of the functions of its kind is an error.

use crate::connection_run::CONN_OPS;
use crate::ops::OPS;

/// What a script is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScriptKind {
    Requests,
    Connections,
}

impl ScriptKind {
    /// The functions that a script may define.
    pub(crate) const fn hooks(self) -> [&'static str; 2] {
        match self {
            Self::Requests => ["envoy_on_request", "envoy_on_response"],
            Self::Connections => ["on_connection", "on_data"],
        }
    }

    /// The chunk with the objects of scripts, which returns what runs their functions.
    pub(crate) const fn interface(self) -> &'static str {
        match self {
            Self::Requests => include_str!("handle.lua"),
            Self::Connections => include_str!("connection.lua"),
        }
    }

    /// The names of the operations of the host, by their numbers.
    pub(crate) fn operations(self) -> Vec<&'static str> {
        match self {
            Self::Requests => OPS.iter().map(|(name, _)| *name).collect(),
            Self::Connections => CONN_OPS.iter().map(|(name, _)| *name).collect(),
        }
    }
}
