//! The clusters that get copies of a rule's requests.
//!
//! Owns: which of the settings of a mirror says where copies go. Refuses to know: how a copy is sent. Keeps: fields are
//! listed by name, so that a new one cannot be forgotten.

use sluice_core::settings::Short;
use sluice_core::{Diags, Path, Span};
use sluice_l7::routes::{Mirror, MirrorTarget, RuntimeShare};

use crate::sections::routes::forwarding as sections;

/// The mirrors of a rule.
pub(super) fn mirrors(
    section: &[Short<sections::Mirror>],
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Vec<Mirror>> {
    let each = section.iter().enumerate();
    each.map(|(place, section)| mirror(&section.0, span, &at.index(place), diags)).collect()
}

fn mirror(
    section: &sections::Mirror,
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Mirror> {
    let sections::Mirror { cluster, cluster_header, cluster_from, share, runtime, host_suffix } =
        section;
    let of_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if let Some(suffix) = host_suffix
        && (suffix.value.is_empty() || !suffix.value.bytes().all(of_host))
    {
        let message = format!("`{}` cannot be added to a host name", suffix.value);
        diags
            .error("bad-value", suffix.span, at.key("host_suffix"), message)
            .help("use letters, digits, `-`, `_` and `.`, such as `-shadow`");
        return None;
    }
    let to = match (cluster, cluster_header, cluster_from) {
        (Some(cluster), None, None) => MirrorTarget::Cluster(cluster.value.clone()),
        (None, Some(header), None) => MirrorTarget::Header(header.0.as_str().into()),
        (None, None, Some(from)) => MirrorTarget::Expression(Box::new(from.clone())),
        _ => {
            let message = "a mirror needs one of `cluster`, `cluster_header` and `cluster_from`";
            diags
                .error("missing-field", span, *at, message)
                .help("set the one that says where copies go, and remove the others");
            return None;
        }
    };
    Some(Mirror {
        to,
        share: RuntimeShare { key: runtime.clone(), percent: *share },
        host_suffix: host_suffix.as_ref().map(|text| text.value.clone()).unwrap_or_default(),
    })
}
