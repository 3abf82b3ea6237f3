//! The guest's allocator: a pointer that only moves up.
//!
//! Every batch runs in a fresh instance, so memory is freed by dropping the instance. Giving back or
//! growing the newest block is done in place, which is what vectors under construction do.
#![expect(
    unsafe_code,
    reason = "an allocator is an unsafe trait; the memory it hands out is the module's own, past its data"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32::{memory_grow, memory_size};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const PAGE_BYTES: usize = 64 * 1024;
/// Memory grows by at least so many pages: each growth is a system call of the host.
const GROWTH_PAGES: usize = 16;

unsafe extern "C" {
    /// The end of the module's static data and stack; the linker places it.
    static __heap_base: u8;
}

struct Bump {
    /// The first free byte; 0 before the first allocation.
    next: AtomicUsize,
}

#[global_allocator]
static ALLOCATOR: Bump = Bump { next: AtomicUsize::new(0) };

impl Bump {
    fn next(&self) -> usize {
        match self.next.load(Relaxed) {
            0 => (&raw const __heap_base).addr(),
            next => next,
        }
    }

    /// Makes `[start, start + size)` the newest block; false if the memory cannot grow so far.
    fn take(&self, start: usize, size: usize) -> bool {
        let Some(end) = start.checked_add(size) else { return false };
        let available = memory_size(0) * PAGE_BYTES;
        if end > available {
            let pages = (end - available).div_ceil(PAGE_BYTES);
            if memory_grow(0, pages.max(GROWTH_PAGES)) == usize::MAX && memory_grow(0, pages) == usize::MAX {
                return false;
            }
        }
        self.next.store(end, Relaxed);
        true
    }
}

// SAFETY: a block is handed out once: `next` only falls to the start of the newest block, when that block
// is given back. Blocks lie between `__heap_base` and the end of the memory, which nothing else uses, and
// begin at a multiple of their alignment. A wasm32 module without threads has no concurrent callers.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.next().next_multiple_of(layout.align());
        match self.take(start, layout.size()) {
            true => std::ptr::with_exposed_provenance_mut(start),
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if block.addr() + layout.size() == self.next() {
            self.next.store(block.addr(), Relaxed);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if block.addr() + layout.size() == self.next() && self.take(block.addr(), size) {
            return block;
        }
        if size <= layout.size() {
            return block;
        }
        let start = self.next().next_multiple_of(layout.align());
        if !self.take(start, size) {
            return std::ptr::null_mut();
        }
        let moved: *mut u8 = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the old block has `layout.size()` readable bytes, the new one `size` more than that, and
        // they do not overlap: the new one begins at or after the end of all earlier ones.
        unsafe { std::ptr::copy_nonoverlapping(block, moved, layout.size()) };
        moved
    }
}
