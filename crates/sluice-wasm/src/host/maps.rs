//! Headers and trailers.
//!
//! Owns: how maps are read and changed. Refuses to know: which map is at hand. Keeps: a guest is given and passes a bounded
//! number of bytes.

use crate::abi::{AbiVersion, MapKind, Status};
use crate::call::{MapEdit, MapOf};
use crate::guest::{Guest, HostResult};
use crate::limits::MAP_BYTES;
use crate::pairs::{self, FieldPair};
use crate::state::HostState;

fn all(state: &HostState, kind: MapKind) -> Vec<FieldPair> {
    match kind {
        MapKind::Message { response, trailers } => {
            let of = MapOf { response, trailers };
            state.with_call(|call| call.pairs(of)).unwrap_or_default()
        }
        MapKind::Call { trailers } | MapKind::Grpc { trailers } => {
            let is_grpc = matches!(kind, MapKind::Grpc { .. });
            let answer = if is_grpc { state.grpc.as_ref() } else { state.answer.as_ref() };
            let of = answer.map(|of| if trailers { &of.trailers } else { &of.headers });
            of.cloned().unwrap_or_default()
        }
    }
}

/// `proxy_get_header_map_value`.
pub(super) fn value(
    guest: &mut Guest<'_, '_>,
    kind: u32,
    name: u32,
    length: u32,
    value_at: u32,
    length_at: u32,
) -> HostResult {
    let kind = MapKind::of(kind)?;
    let name = guest.short(name, length)?;
    let state = guest.state();
    let value = match kind {
        MapKind::Message { response, trailers } => {
            let of = MapOf { response, trailers };
            let value = state.with_call(|call| call.value(of, &name));
            value.unwrap_or(Err(Status::BadArgument))?
        }
        MapKind::Call { .. } | MapKind::Grpc { .. } => {
            let mut pairs = all(state, kind).into_iter();
            pairs.find(|(of, _)| of.eq_ignore_ascii_case(&name)).map(|(_, value)| value)
        }
    };
    match value {
        Some(value) => guest.give(&value, value_at, length_at),
        // An older guest takes any other status for a failure.
        None if guest.state().version == AbiVersion::V0_1 => guest.give(b"", value_at, length_at),
        None => Err(Status::NotFound.into()),
    }
}

fn edit(
    guest: &mut Guest<'_, '_>,
    kind: u32,
    then: impl FnOnce(&mut Guest<'_, '_>, MapOf) -> HostResult,
) -> HostResult {
    match MapKind::of(kind)? {
        MapKind::Message { response, trailers } => then(guest, MapOf { response, trailers }),
        MapKind::Call { .. } | MapKind::Grpc { .. } => Err(Status::BadArgument.into()),
    }
}

fn apply(guest: &Guest<'_, '_>, of: MapOf, edit: MapEdit<'_>) -> HostResult {
    let done = guest.state().with_call(|call| call.edit(of, edit));
    Ok(done.unwrap_or(Err(Status::BadArgument))?)
}

/// `proxy_add_header_map_value`.
pub(super) fn add(
    guest: &mut Guest<'_, '_>,
    kind: u32,
    name: u32,
    length: u32,
    value: u32,
    value_length: u32,
) -> HostResult {
    edit(guest, kind, |guest, of| {
        let (name, value) = (guest.short(name, length)?, guest.short(value, value_length)?);
        apply(guest, of, MapEdit::Add(&name, &value))
    })
}

/// `proxy_replace_header_map_value`.
pub(super) fn replace(
    guest: &mut Guest<'_, '_>,
    kind: u32,
    name: u32,
    length: u32,
    value: u32,
    value_length: u32,
) -> HostResult {
    edit(guest, kind, |guest, of| {
        let (name, value) = (guest.short(name, length)?, guest.short(value, value_length)?);
        apply(guest, of, MapEdit::Replace(&name, &value))
    })
}

/// `proxy_remove_header_map_value`.
pub(super) fn remove(guest: &mut Guest<'_, '_>, kind: u32, name: u32, length: u32) -> HostResult {
    edit(guest, kind, |guest, of| {
        let name = guest.short(name, length)?;
        apply(guest, of, MapEdit::Remove(&name))
    })
}

/// `proxy_get_header_map_pairs`.
pub(super) fn pairs(
    guest: &mut Guest<'_, '_>,
    kind: u32,
    pairs_at: u32,
    length_at: u32,
) -> HostResult {
    let bytes = pairs::encode(&all(guest.state(), MapKind::of(kind)?));
    if bytes.len() > MAP_BYTES {
        guest.state().count_limit("map_bytes");
        return Err(Status::InternalFailure.into());
    }
    guest.give(&bytes, pairs_at, length_at)
}

/// `proxy_set_header_map_pairs`.
pub(super) fn set_pairs(guest: &mut Guest<'_, '_>, kind: u32, at: u32, length: u32) -> HostResult {
    edit(guest, kind, |guest, of| {
        let pairs = pairs::decode(guest.bytes(at, length)?)?;
        apply(guest, of, MapEdit::All(&pairs))
    })
}

/// `proxy_get_header_map_size`: the bytes of names and values.
pub(super) fn size(guest: &mut Guest<'_, '_>, kind: u32, size_at: u32) -> HostResult {
    let pairs = all(guest.state(), MapKind::of(kind)?);
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    guest.write_u32(size_at, u32::try_from(bytes).map_err(|_| Status::InternalFailure)?)
}
