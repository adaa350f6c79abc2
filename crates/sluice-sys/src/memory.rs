//! The allocator of the process.

/// The allocator that the binary installs.
pub use mimalloc::MiMalloc as Allocator;

/// Returns memory to the system that the calling thread has freed. For after rare, large pieces of work: the allocator
/// keeps such memory otherwise until the thread allocates again. Does nothing where [`Allocator`] is not installed.
pub fn give_back() {
    // SAFETY: the function takes no pointer and may be called at any time, from any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
