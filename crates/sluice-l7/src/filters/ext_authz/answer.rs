//! What a service for authorisation answers, and what becomes of the request.
//!
//! Owns: how answers are read, which headers they may change, and the changes. Refuses to know: how the service was asked.
//! Keeps: no answer changes how a message is framed or routed; what cannot be carried out to the letter is no answer.

use bytes::Bytes;
use sluice_codec::names::is_field_value;
use sluice_codec::{Head, Known};

use super::messages::{
    CheckResponse, DeniedHttpResponse, HeaderValueOption, OkHttpResponse, StructMessage, ValueKind,
    ValueMessage,
};
use crate::json::Json;
use crate::reasons;
use crate::reply::Reply;
use crate::words::is_editable;

/// The answer of a service.
#[derive(Debug)]
pub(super) enum AuthzAnswer {
    /// The request may pass, with these changes.
    Allow(AuthzEdits),
    /// It may not.
    Deny(Box<Reply>),
}

/// What changes in a request that may pass.
#[derive(Debug, Default)]
pub(super) struct AuthzEdits {
    /// Headers of the request.
    pub(super) request: Vec<HeaderEdit>,
    /// Headers of the request that are removed.
    pub(super) remove: Vec<String>,
    /// Headers of the response.
    pub(super) response: Vec<HeaderEdit>,
    /// What the service tells later filters and records.
    pub(super) metadata: Option<Json>,
}

/// A header that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::filters) struct HeaderEdit {
    pub(in crate::filters) name: String,
    pub(in crate::filters) value: Bytes,
    pub(in crate::filters) action: EditAction,
}

/// What becomes of the headers of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::filters) enum EditAction {
    /// They stay.
    Append,
    /// They are replaced.
    Overwrite,
    /// If there are some, they stay, and nothing is added.
    AddIfAbsent,
    /// They are replaced; if there are none, nothing is added.
    OverwriteIfExists,
}

impl HeaderEdit {
    /// Applies the edit to a head.
    pub(in crate::filters) fn apply(&self, head: &mut Head) {
        let name = self.name.as_bytes();
        let there = head.get_named(name).is_some();
        match self.action {
            EditAction::Append => head.append(name, &self.value),
            EditAction::AddIfAbsent if !there => head.append(name, &self.value),
            EditAction::OverwriteIfExists if there => head.set(name, &self.value),
            EditAction::Overwrite => head.set(name, &self.value),
            EditAction::AddIfAbsent | EditAction::OverwriteIfExists => {}
        }
    }
}

impl AuthzEdits {
    /// Applies what changes in the request. Returns whether anything does.
    pub(super) fn apply(&self, head: &mut Head) -> bool {
        for name in &self.remove {
            head.remove(name.as_bytes());
        }
        self.request.iter().for_each(|edit| edit.apply(head));
        !self.remove.is_empty() || !self.request.is_empty()
    }
}

/// Why an answer cannot be carried out.
pub(super) type AnswerFault = String;

/// Reads an answer of gRPC.
pub(super) fn of_grpc(answer: CheckResponse) -> Result<AuthzAnswer, AnswerFault> {
    // An answer without a status says nothing, and allows nothing.
    let status = answer.status.ok_or("it has no status")?;
    let metadata = answer.dynamic_metadata;
    if status.code != 0 {
        let denied = denied(answer.denied_response.unwrap_or_default())?;
        return Ok(AuthzAnswer::Deny(Box::new(denied)));
    }
    let OkHttpResponse {
        headers,
        dynamic_metadata,
        headers_to_remove,
        response_headers_to_add,
        query_parameters_to_set,
        query_parameters_to_remove,
    } = answer.ok_response.unwrap_or_default();
    if !query_parameters_to_set.is_empty() || !query_parameters_to_remove.is_empty() {
        return Err("it changes query parameters".into());
    }
    if let Some(name) = headers_to_remove.iter().find(|name| !is_editable(name)) {
        return Err(format!("it removes the header {name:?}"));
    }
    let edits = |headers: Vec<HeaderValueOption>, default| {
        headers.into_iter().map(|header| edit(header, default)).collect::<Result<Vec<_>, _>>()
    };
    Ok(AuthzAnswer::Allow(AuthzEdits {
        request: edits(headers, EditAction::Overwrite)?,
        remove: headers_to_remove,
        response: edits(response_headers_to_add, EditAction::Append)?,
        metadata: metadata.or(dynamic_metadata).map(tree),
    }))
}

/// Reads a header; without `append` and an action, `default` becomes of the others of its name.
fn edit(option: HeaderValueOption, default: EditAction) -> Result<HeaderEdit, AnswerFault> {
    let edit = unchecked_edit(option, default);
    if !is_editable(&edit.name) || !is_field_value(&edit.value) {
        return Err(format!("it sets the header {:?}", edit.name));
    }
    Ok(edit)
}

/// Reads a header as [`edit`] does, whether it may be set or not.
pub(in crate::filters) fn unchecked_edit(
    option: HeaderValueOption,
    default: EditAction,
) -> HeaderEdit {
    let header = option.header.unwrap_or_default();
    let value =
        if header.raw_value.is_empty() { Bytes::from(header.value) } else { header.raw_value };
    let action = match (option.append, option.append_action) {
        (Some(true), _) => EditAction::Append,
        (None, 1) => EditAction::AddIfAbsent,
        (None, 3) => EditAction::OverwriteIfExists,
        (Some(false), _) | (None, 2) => EditAction::Overwrite,
        (None, _) => default,
    };
    HeaderEdit { name: header.key.to_ascii_lowercase(), value, action }
}

fn denied(response: DeniedHttpResponse) -> Result<Reply, AnswerFault> {
    let status = response.status.map_or(0, |status| status.code);
    let mut reply = refusal(u16::try_from(status).unwrap_or(0), response.body);
    for header in response.headers {
        let HeaderEdit { name, value, .. } = edit(header, EditAction::Append)?;
        add(&mut reply, &name, &value);
    }
    Ok(reply)
}

/// The reply to a request that may not pass; a status that is none of a final response becomes 403.
pub(super) fn refusal(status: u16, body: impl Into<Bytes>) -> Reply {
    let status = if (200..600).contains(&status) { status } else { 403 };
    Reply::new(status, reasons::DENIED, "ext_authz_denied", body)
}

/// Adds a header to a reply. A type is that of its body.
pub(in crate::filters) fn add(reply: &mut Reply, name: &str, value: &[u8]) {
    let value = String::from_utf8_lossy(value).into_owned();
    if Known::of(name.as_bytes()) == Some(Known::ContentType) {
        reply.content_type = value.into();
    } else {
        reply.fields.push((name.to_owned().into(), value));
    }
}

/// A structure as the tree that filters share.
pub(in crate::filters) fn tree(of: StructMessage) -> Json {
    let members = of.fields.into_iter().map(|(name, value)| (name.into(), value_tree(value)));
    Json::Object(members.collect())
}

fn value_tree(value: ValueMessage) -> Json {
    match value.kind {
        None | Some(ValueKind::Null(_)) => Json::Null,
        Some(ValueKind::Number(number)) => Json::Number(number),
        Some(ValueKind::Text(text)) => Json::Text(text.into()),
        Some(ValueKind::Bool(flag)) => Json::Bool(flag),
        Some(ValueKind::Struct(inner)) => tree(inner),
        Some(ValueKind::List(list)) => {
            Json::List(list.values.into_iter().map(value_tree).collect())
        }
    }
}
