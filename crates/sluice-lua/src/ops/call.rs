//! Responses of scripts, and their calls to clusters.
//!
//! Owns: what a response and a call are made from. Refuses to know: how either is sent. Keeps: a script calls only clusters
//! that the settings name, which therefore exist; a call ends before its request does.

use std::rc::Rc;
use std::time::Duration;

use mlua::{Lua, Table, Value};
use sluice_codec::names::{is_field_value, is_token};
use sluice_l7::words::is_editable;
use sluice_l7::{Reply, SideRequest, reasons};

use crate::args::{Args, OpError, OpResult, nothing};
use crate::side::{MessageAtHand, ScriptRun};

/// Names and values in turn, as texts.
fn fields(list: &Table) -> Result<Vec<(String, Vec<u8>)>, OpError> {
    let mut fields = Vec::new();
    for index in (1..list.raw_len()).step_by(2) {
        let name: Value = list.raw_get(index)?;
        let value: Value = list.raw_get(index + 1)?;
        let Value::String(name) = name else { return Err("a header name must be a string".into()) };
        let name = name.to_string_lossy().to_ascii_lowercase();
        let value = match value {
            Value::String(value) => value.as_bytes().to_vec(),
            Value::Integer(number) => number.to_string().into_bytes(),
            Value::Number(number) => number.to_string().into_bytes(),
            _ => return Err(format!("the value of `{name}` must be a string or a table").into()),
        };
        if !is_field_value(&value) {
            return Err(format!("the value of `{name}` contains control characters").into());
        }
        fields.push((name, value));
    }
    Ok(fields)
}

fn list(args: &mut Args<'_>, index: usize) -> Result<Vec<(String, Vec<u8>)>, OpError> {
    match args.value(index) {
        Value::Table(table) => fields(&table),
        other => Err(args.wrong(index, "table", other.type_name())),
    }
}

/// `(fields, body)`.
pub(super) fn respond(run: &mut ScriptRun<'_, '_, '_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    if run.response {
        return Err("respond() is for requests; change the response instead".into());
    }
    if !matches!(run.message, MessageAtHand::Head(_) | MessageAtHand::Whole(_)) {
        return Err("respond() is too late: the headers have been sent".into());
    }
    let fields = list(args, 0)?;
    let body = args.optional_text(1)?.map(|body| body.as_bytes().to_vec()).unwrap_or_default();
    let mut reply = Reply::new(200, reasons::LOCAL, "lua_response", body);
    reply.content_type = "text/plain".into();
    let mut status = None;
    for (name, value) in fields {
        let text = String::from_utf8_lossy(&value).into_owned();
        match &*name {
            ":status" => status = text.parse().ok().filter(|status| (200..=599).contains(status)),
            "content-type" => reply.content_type = text.into(),
            // It follows from the body.
            "content-length" => {}
            _ if is_editable(&name) => reply = reply.with(name, text),
            _ => return Err(format!("respond(): `{name}` cannot be set").into()),
        }
    }
    reply.status = status.ok_or("respond(): the headers need a :status from 200 to 599")?;
    run.reply = Some(reply);
    nothing()
}

/// `(cluster, fields, body, milliseconds, asynchronous)`.
pub(super) fn call(run: &mut ScriptRun<'_, '_, '_>, _: &Lua, args: &mut Args<'_>) -> OpResult {
    if matches!(run.message, MessageAtHand::Sent) {
        return Err("httpCall() is too late: the message has been sent".into());
    }
    let name = args.word(0)?;
    let Some(cluster) = run.plan.clusters.iter().find(|cluster| *cluster.name == *name) else {
        return Err(format!(
            "httpCall(): `{name}` is not in `clusters` of the settings, which lists what scripts may call"
        )
        .into());
    };
    let request = request(list(args, 1)?)?;
    let body = args.optional_text(2)?.map(|body| body.as_bytes().to_vec()).unwrap_or_default();
    let request = if body.is_empty() { request } else { request.body(body) };
    let millis =
        u64::try_from(args.integer(3)?).map_err(|_| "httpCall(): the timeout must be >= 0")?;
    let worker = Rc::clone(run.cx.worker);
    let by = match millis {
        0 => sluice_core::Moment::NEVER,
        millis => worker.now().after(Duration::from_millis(millis)),
    };
    let calling = run.cx.side_calls().call(cluster, request, by);
    if args.is_true(4) {
        worker.spawn(async move { drop(calling.await) });
    } else {
        run.call = Some(calling);
    }
    nothing()
}

fn request(fields: Vec<(String, Vec<u8>)>) -> Result<SideRequest, OpError> {
    let pseudo = |name: &str| {
        let value = fields.iter().find(|(of, _)| of == name).map(|(_, value)| value);
        value
            .and_then(|value| String::from_utf8(value.clone()).ok())
            .filter(|text| !text.is_empty())
    };
    let (Some(method), Some(path), Some(host)) =
        (pseudo(":method"), pseudo(":path"), pseudo(":authority"))
    else {
        let needed = "http call headers must include ':path', ':method', and ':authority'";
        return Err(needed.into());
    };
    let is_target = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    let is_host = sluice_codec::h1::parse::is_authority(host.as_bytes());
    if !is_token(method.as_bytes()) || method == "CONNECT" || !is_target || !is_host {
        return Err("httpCall(): :method, :path or :authority is not valid".into());
    }
    let mut request = SideRequest::new(&method, &path).host(&host);
    for (name, value) in &fields {
        match &**name {
            ":method" | ":path" | ":authority" | ":scheme" | "host" | "content-length" => {}
            _ if is_editable(name) => request = request.with(name, value),
            _ => return Err(format!("httpCall(): `{name}` cannot be set").into()),
        }
    }
    Ok(request)
}
