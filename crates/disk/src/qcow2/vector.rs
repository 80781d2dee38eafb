//! Lists of buffers, as imago takes them.

use std::io::{IoSlice, IoSliceMut};

use imago::io_buffers::{IoVector, IoVectorMut};
use libc::iovec;

/// Buffers that are filled.
///
/// # Safety
/// They must be writable for their lengths, for as long as the list lives.
pub unsafe fn to_fill(buffers: &[iovec]) -> IoVectorMut<'_> {
    let mut vector = IoVectorMut::with_capacity(buffers.len());
    for b in buffers.iter().filter(|b| b.iov_len > 0) {
        // SAFETY: the caller vouches for the buffers; imago only has the kernel fill them, or fills them itself.
        let slice = unsafe { std::slice::from_raw_parts_mut(b.iov_base.cast(), b.iov_len) };
        vector.push_ioslice(IoSliceMut::new(slice));
    }
    vector
}

/// Buffers that are written from.
///
/// # Safety
/// They must be readable for their lengths, for as long as the list lives.
pub unsafe fn to_write(buffers: &[iovec]) -> IoVector<'_> {
    let mut vector = IoVector::with_capacity(buffers.len());
    for b in buffers.iter().filter(|b| b.iov_len > 0) {
        // SAFETY: the caller vouches for the buffers; imago only hands them to the kernel.
        let slice = unsafe { std::slice::from_raw_parts(b.iov_base.cast(), b.iov_len) };
        vector.push_ioslice(IoSlice::new(slice));
    }
    vector
}
