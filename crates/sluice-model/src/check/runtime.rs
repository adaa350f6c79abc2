//! Checks of runtime values.
//!
//! Owns: whether a value can be read as what it is used as. Refuses to know: who uses it. Keeps: a value that nothing uses may
//! be anything, since a later configuration may use it.

use std::collections::BTreeSet;

use sluice_core::{Diags, Path};
use sluice_l7::runtime::RuntimeKind;

use crate::process::Process;
use crate::sections::Config;

/// Checks the values of the configuration and of its file against the `keys` that are used.
pub fn runtime<'a>(
    config: &Config,
    process: &Process,
    keys: impl Iterator<Item = (&'a str, RuntimeKind)>,
    diags: &mut Diags,
) {
    let keys: BTreeSet<_> = keys.collect();
    let section = &config.runtime;
    let at = Path::ROOT.key("runtime");
    for (key, kind) in keys {
        if let Some(value) = section.values.0.get(key)
            && let Err(message) = kind.check(&value.value)
        {
            let values = at.key("values");
            diags.error("bad-value", value.span, values.key(key), message);
        }
        let (_, of_file) = &process.runtime_values;
        if let Some((path, value)) = section.file.as_ref().zip(of_file.get(key))
            && let Err(message) = kind.check(value)
        {
            let message = format!("{}: `{key}`: {message}", path.value.display());
            diags.error("bad-file", path.span, at.key("file"), message);
        }
    }
}
