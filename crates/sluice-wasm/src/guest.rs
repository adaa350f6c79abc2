//! The memory of a guest.
//!
//! Owns: how bytes get into and out of it. Refuses to know: what they mean. Keeps: a pointer or length that leads outside is a
//! status to the guest.

use wasmtime::Caller;

use crate::abi::Status;
use crate::limits::TEXT_BYTES;
use crate::state::HostState;

/// Why a function of the host did not succeed.
#[derive(Debug)]
pub(crate) enum HostFault {
    /// The guest learns so.
    Status(Status),
    /// The guest ends.
    Trap(wasmtime::Error),
}

impl From<Status> for HostFault {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// What comes of a function of the host.
pub(crate) type HostResult<T = ()> = Result<T, HostFault>;

/// A guest that has called the host.
pub(crate) struct Guest<'g, 'c>(pub(crate) &'g mut Caller<'c, HostState>);

impl Guest<'_, '_> {
    pub(crate) fn state(&self) -> &HostState {
        self.0.data()
    }

    pub(crate) fn state_mut(&mut self) -> &mut HostState {
        self.0.data_mut()
    }

    /// The bytes at a pointer.
    pub(crate) fn bytes(&self, at: u32, length: u32) -> HostResult<&[u8]> {
        let memory = self.state().memory.ok_or(Status::InvalidMemoryAccess)?;
        let (at, length) = (at as usize, length as usize);
        let bytes = at.checked_add(length).and_then(|end| memory.data(&*self.0).get(at..end));
        bytes.ok_or(HostFault::Status(Status::InvalidMemoryAccess))
    }

    /// A text of bounded length, as bytes.
    pub(crate) fn short(&self, at: u32, length: u32) -> HostResult<Vec<u8>> {
        let bytes = self.bytes(at, length)?;
        if bytes.len() > TEXT_BYTES {
            self.state().count_limit("text_bytes");
            return Err(Status::BadArgument.into());
        }
        Ok(bytes.to_vec())
    }

    /// As [`Guest::short`]; UTF-8.
    pub(crate) fn text(&self, at: u32, length: u32) -> HostResult<String> {
        String::from_utf8(self.short(at, length)?)
            .map_err(|_| HostFault::Status(Status::BadArgument))
    }

    /// Writes bytes to a pointer.
    pub(crate) fn write(&mut self, at: u32, bytes: &[u8]) -> HostResult {
        let memory = self.state().memory.ok_or(Status::InvalidMemoryAccess)?;
        let at = at as usize;
        let end = at.checked_add(bytes.len()).ok_or(Status::InvalidMemoryAccess)?;
        let place = memory.data_mut(&mut *self.0).get_mut(at..end);
        place.ok_or(Status::InvalidMemoryAccess)?.copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn write_u32(&mut self, at: u32, value: u32) -> HostResult {
        self.write(at, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(&mut self, at: u32, value: u64) -> HostResult {
        self.write(at, &value.to_le_bytes())
    }

    /// Gives the guest bytes in memory that it allocates; where they are and how many is written to two pointers.
    pub(crate) fn give(&mut self, bytes: &[u8], pointer_at: u32, length_at: u32) -> HostResult {
        let length = u32::try_from(bytes.len()).map_err(|_| Status::InternalFailure)?;
        let mut place = 0;
        if length > 0 {
            let allocate = self.state().allocate.clone().ok_or(Status::InvalidMemoryAccess)?;
            place = allocate.call(&mut *self.0, length).map_err(HostFault::Trap)?;
            if place == 0 {
                return Err(Status::InvalidMemoryAccess.into());
            }
            self.write(place, bytes)?;
        }
        self.write_u32(pointer_at, place)?;
        self.write_u32(length_at, length)
    }
}
