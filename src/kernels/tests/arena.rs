//! Memory between two pages that may not be touched: a kernel that reads before or behind what it was given crashes.
#![allow(unsafe_code)]

use super::Numbers;

/// Where a slice is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// Its first byte is the first that may be read.
    Start,
    /// Its last byte is the last that may be read.
    End,
}

impl Edge {
    pub(super) fn any(numbers: &mut Numbers) -> Edge {
        if numbers.below(2) == 0 { Edge::Start } else { Edge::End }
    }
}

/// Room for one slice.
pub(super) struct Arena {
    start: *mut u8,
    len: usize,
}

/// Bytes in a page; a multiple of what any Linux has.
const PAGE: usize = 64 << 10;

#[cfg(all(target_os = "linux", not(miri)))]
impl Arena {
    /// Room for `bytes`.
    pub(super) fn new(bytes: usize) -> Arena {
        let len = bytes.next_multiple_of(PAGE);
        // SAFETY: a fresh private mapping of which nobody else knows; its first and last page are made unreadable.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let all = libc::mmap(std::ptr::null_mut(), len + 2 * PAGE, libc::PROT_NONE, flags, -1, 0);
            assert!(all != libc::MAP_FAILED, "mmap");
            let start = all.cast::<u8>().add(PAGE);
            assert_eq!(libc::mprotect(start.cast(), len, libc::PROT_READ | libc::PROT_WRITE), 0, "mprotect");
            Arena { start, len }
        }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nothing borrows any more.
        unsafe { libc::munmap(self.start.sub(PAGE).cast(), self.len + 2 * PAGE) };
    }
}

/// Elsewhere there are no such pages, but the same alignments.
#[cfg(not(all(target_os = "linux", not(miri))))]
impl Arena {
    pub(super) fn new(bytes: usize) -> Arena {
        let len = bytes.next_multiple_of(PAGE);
        let words = Box::leak(vec![0u64; len / 8].into_boxed_slice());
        Arena { start: words.as_mut_ptr().cast(), len }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the box that `new` leaked.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.start.cast::<u64>(), self.len / 8)) });
    }
}

impl Arena {
    /// A copy of `data` at the edge.
    pub(super) fn put<T: bytemuck::NoUninit + bytemuck::AnyBitPattern>(&mut self, edge: Edge, data: &[T]) -> &[T] {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        if bytes.len() > self.len {
            *self = Arena::new(bytes.len());
        }
        let at = if edge == Edge::Start { 0 } else { self.len - bytes.len() };
        // SAFETY: `new` made `len` bytes readable and writable, and `self` is borrowed.
        let all = unsafe { std::slice::from_raw_parts_mut(self.start, self.len) };
        let place = &mut all[at..at + bytes.len()];
        place.copy_from_slice(bytes);
        bytemuck::cast_slice(place)
    }
}

/// What a test that crashes should look like is checked in a process of its own.
#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn reading_past_the_edge_crashes() {
    for (edge, by) in [(Edge::Start, -1), (Edge::End, 3)] {
        let mut arena = Arena::new(100);
        let slice = arena.put(edge, &[1u8, 2, 3]);
        let address = slice.as_ptr();
        // SAFETY: the child only reads one byte and exits; the parent waits for it.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0, "fork");
            if child == 0 {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                let read = address.offset(by).read_volatile();
                libc::_exit(i32::from(read == 77));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child, "waitpid");
            assert!(libc::WIFSIGNALED(status), "{edge:?}: the byte could be read, status {status}");
        }
    }
}
