//! The memory of the process itself, beside its guest's.

/// Gives what is free of it back to the host: the allocator keeps it otherwise, and there may be hundreds of such processes.
pub(crate) fn give_back() {
    // SAFETY: it takes no pointer, and what is in use stays as it is (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}
