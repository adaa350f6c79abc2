//! The form of configuration files.
//!
//! Owns: which reader a configuration is read with. Refuses to know: what is in it.

use std::path::Path;

use sluice_config::{Loaded, Sources, load, load_sources};

/// The form of configuration files.
#[derive(Clone, Debug, Default)]
pub(crate) enum ConfigForm {
    /// That of Sluice.
    #[default]
    Native,
    /// That of Envoy.
    #[cfg(feature = "envoy")]
    Envoy(std::sync::Arc<sluice_envoy::LoadOptions>),
    /// That of Envoy, without the part that control planes have a say in.
    #[cfg(feature = "envoy")]
    EnvoyPart(std::sync::Arc<sluice_envoy::LoadOptions>),
}

impl ConfigForm {
    /// The pages of the program whose files these are that any host name may be used for; none if it is Sluice.
    pub(crate) const fn stand_in_public(&self) -> &'static [&'static str] {
        match self {
            Self::Native => &[],
            #[cfg(feature = "envoy")]
            Self::Envoy(_) | Self::EnvoyPart(_) => &["/ready", "/stats/prometheus"],
        }
    }

    /// How files of Envoy are read; `None` if these are none.
    #[cfg(feature = "envoy")]
    pub(crate) const fn envoy(&self) -> Option<&std::sync::Arc<sluice_envoy::LoadOptions>> {
        match self {
            Self::Native => None,
            Self::Envoy(options) | Self::EnvoyPart(options) => Some(options),
        }
    }

    /// Reads a configuration.
    pub(crate) fn load(&self, path: &Path) -> Loaded {
        match self {
            Self::Native => load(path),
            #[cfg(feature = "envoy")]
            Self::Envoy(options) => sluice_envoy::load(path, options),
            #[cfg(feature = "envoy")]
            Self::EnvoyPart(options) => sluice_envoy::load_part(path, options).0,
        }
    }

    /// Reads files again whose text is known.
    pub(crate) fn load_sources(&self, sources: &Sources, folder: &Path) -> Loaded {
        match self {
            Self::Native => load_sources(sources, folder),
            #[cfg(feature = "envoy")]
            Self::Envoy(options) => {
                let (path, text) = sources.get(0).unwrap_or_else(|| (Path::new(""), ""));
                sluice_envoy::load_text(path, text.to_owned(), options)
            }
            #[cfg(feature = "envoy")]
            Self::EnvoyPart(options) => {
                let (path, text) = sources.get(0).unwrap_or_else(|| (Path::new(""), ""));
                sluice_envoy::load_part_of_text(path, text.to_owned(), options).0
            }
        }
    }
}
