//! The allocator, and what it keeps.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives freed memory back to the system, in a thread of its own that nobody waits for. The end of the process would do
/// it, alone: 0.3 µs a page are 30 ms for what a join of a million labels had.
pub(crate) fn give_back() {
    let spawned = std::thread::Builder::new().name("give-back".to_owned()).spawn(|| {
        // The allocator does nothing for a thread that never had anything of it.
        drop(std::hint::black_box(Box::new(0u64)));
        collect();
    });
    if let Err(error) = spawned {
        tracing::debug!(%error, "no thread for giving memory back, the end of the process does it");
    }
}

#[expect(unsafe_code, reason = "the allocator is C; see SAFETY")]
fn collect() {
    // SAFETY: may be called by any thread at any time. It is the library behind the global allocator, the one that the
    // crate `mimalloc` links, and only what is freed is given back.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
