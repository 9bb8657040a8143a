//! A stack of a chosen size for what nests deeply.
//!
//! A thread would have one too, but also an arena of the allocator; a library that switches stacks would first read the
//! map of the process's memory to find out how much of the present stack is left.

#![expect(unsafe_code, reason = "memory is mapped and taken for a stack")]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::param::page_size;

/// Does `work` on a new stack of `size` bytes, below which nothing is mapped. A panic goes on to the caller.
///
/// # Errors
/// When that much memory cannot be mapped.
pub fn on_stack_of<T>(size: usize, work: impl FnOnce() -> T) -> io::Result<T> {
    let guard = page_size();
    let length = size.next_multiple_of(guard) + guard;
    // SAFETY: a new private mapping touches no memory in use.
    let lowest = unsafe {
        mmap_anonymous(
            null_mut(),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK,
        )?
    };
    // SAFETY: the page is the mapping's first, and no reference into it exists.
    unsafe { mprotect(lowest, guard, MprotectFlags::empty())? };
    // SAFETY: the memory above the guard is mapped, ours alone, aligned to a page and `length - guard` long. Nothing
    // unwinds out of the call.
    let outcome = unsafe {
        psm::on_stack(lowest.cast::<u8>().add(guard), length - guard, || catch_unwind(AssertUnwindSafe(work)))
    };
    // SAFETY: this is the whole mapping, and nothing that was on it is left but the value, which was moved out.
    unsafe { munmap(lowest, length)? };
    Ok(outcome.unwrap_or_else(|panic| resume_unwind(panic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deep(levels: usize) -> usize {
        let room = std::hint::black_box([1_u8; 1024]);
        if levels == 0 { 0 } else { usize::from(room[levels % 1024]) + deep(levels - 1) }
    }

    #[test]
    fn there_is_as_much_room_as_was_asked_for() {
        assert_eq!(on_stack_of(64 << 20, || deep(20_000)).unwrap(), 20_000);
    }

    #[test]
    fn a_panic_goes_on_to_the_caller() {
        let panicked = catch_unwind(|| on_stack_of(1 << 20, || panic!("no")).unwrap_or(()));
        assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "no");
    }
}
