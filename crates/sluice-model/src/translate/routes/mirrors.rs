//! The clusters that get copies of a rule's requests.

use sluice_core::settings::Short;
use sluice_core::{Diags, Path, Span};
use sluice_l7::routes::{Mirror, MirrorTarget, RuntimeShare};

use crate::sections::routes::forwarding as sections;

/// The mirrors. Fields are listed by name so that a new one cannot be forgotten.
pub(super) fn mirrors(
    section: &[Short<sections::Mirror>],
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<Vec<Mirror>> {
    let mirrors = section.iter().enumerate().map(|(place, mirror)| {
        let sections::Mirror { cluster, cluster_header, share, runtime, host_suffix } = &mirror.0;
        let of_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if let Some(suffix) = host_suffix
            && (suffix.value.is_empty() || !suffix.value.bytes().all(of_host))
        {
            let message = format!("`{}` cannot be added to a host name", suffix.value);
            let here = at.index(place);
            diags
                .error("bad-value", suffix.span, here.key("host_suffix"), message)
                .help("use letters, digits, `-`, `_` and `.`, such as `-shadow`");
            return None;
        }
        let to = match (cluster, cluster_header) {
            (Some(cluster), None) => MirrorTarget::Cluster(cluster.value.clone()),
            (None, Some(header)) => MirrorTarget::Header(header.0.as_str().into()),
            (None, None) | (Some(_), Some(_)) => {
                let message = "a mirror needs one of `cluster` and `cluster_header`";
                diags
                    .error("missing-field", span, at.index(place), message)
                    .help("set the one that says where copies go, and remove the other");
                return None;
            }
        };
        Some(Mirror {
            to,
            share: RuntimeShare { key: runtime.clone(), percent: *share },
            host_suffix: host_suffix.as_ref().map(|text| text.value.clone()).unwrap_or_default(),
        })
    });
    mirrors.collect()
}
