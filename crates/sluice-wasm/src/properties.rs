//! Properties of requests and connections, by their paths.
//!
//! Owns: which there are besides the attributes of expressions, and their form as bytes. Refuses to know: guests. Keeps: a property
//! is what the attribute of that name is elsewhere.

use sluice_codec::Head;
use sluice_expr::{AttributeSource as _, AttributeUse, AttributeValue};
use sluice_l4::rbac::conn::ConnSubject;
use sluice_l4::rbac::conn::expression::CONN_ATTRIBUTES;
use sluice_l7::filters::Cx;
use sluice_l7::record::View;

use crate::pairs;

/// A property of the request, as bytes: texts as they are, numbers in eight bytes from the lowest, truth values in one, maps as
/// pairs.
pub(crate) fn of_request(
    cx: &Cx<'_>,
    request: Option<&Head>,
    response: Option<&Head>,
    path: &[&str],
) -> Option<Vec<u8>> {
    let (summary, conn) = (cx.summary, cx.conn);
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let number = |number: u64| Some(number.to_le_bytes().to_vec());
    match path {
        ["route_name"] | ["xds", "route_name"] => return text(summary.route.as_deref()?),
        ["cluster_name"] | ["xds", "cluster_name"] => {
            return text(summary.cluster.as_ref().or(summary.destination.as_ref())?);
        }
        ["request", "time"] => {
            return number(u64::try_from(summary.started.as_nanos()).unwrap_or(u64::MAX));
        }
        ["request", "protocol"] => return text(summary.version.word()),
        ["source", "address"] => return text(&summary.source.to_string()),
        ["destination", "address"] => return text(&conn.local().to_string()),
        ["upstream", "address"] => return text(&summary.attempts.last()?.endpoint),
        ["connection", "requested_server_name"] => return text(conn.sni()?),
        ["response", "code_details"] => {
            return text(Some(&*summary.details).filter(|details| !details.is_empty())?);
        }
        _ => {}
    }
    let view = View { response, ..cx.view(request?) };
    let value = match path {
        [root, field] => view.attribute(root, field, None),
        [root, field, member] => match view.attribute(root, field, Some(member))? {
            AttributeValue::Map(members) => {
                return members.into_iter().next().map(|(_, value)| value.into_bytes());
            }
            _ => None,
        },
        _ => None,
    };
    value.map(bytes_of)
}

/// A property of a connection, in the same form.
pub(crate) fn of_connection(conn: &ConnSubject<'_>, path: &[&str]) -> Option<Vec<u8>> {
    match path {
        ["source", "address"] => Some(conn.source.to_string().into_bytes()),
        ["destination", "address"] => Some(conn.local.to_string().into_bytes()),
        // Without a name, it is empty.
        ["connection", "requested_server_name"] => {
            Some(conn.sni.unwrap_or_default().as_bytes().to_vec())
        }
        [root, field] => {
            let mut known = CONN_ATTRIBUTES.iter();
            let def = known.find(|of| of.root == *root && of.field == *field)?;
            let of = AttributeUse { root: def.root, field: def.field.to_owned(), members: None };
            conn.attribute(&of).map(bytes_of)
        }
        _ => None,
    }
}

fn bytes_of(value: AttributeValue) -> Vec<u8> {
    match value {
        AttributeValue::Text(text) => text.into_bytes(),
        AttributeValue::Number(number) => number.to_le_bytes().to_vec(),
        AttributeValue::Bool(flag) => vec![u8::from(flag)],
        AttributeValue::Map(members) => {
            let pair = |(name, value): (String, String)| (name.into_bytes(), value.into_bytes());
            pairs::encode(&members.into_iter().map(pair).collect::<Vec<_>>())
        }
    }
}
