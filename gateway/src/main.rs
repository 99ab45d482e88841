//! The `gateway` program; everything is in the library.

/// The system's allocator merges and splits its blocks again for every request; this one keeps them by size.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

unsafe extern "C" {
    /// Frees what the calling thread does not use any more, and with `force` gives it back to the system at once
    /// (mimalloc.h). The crate has it behind a feature that brings another crate for the names of C's types.
    fn mi_collect(force: bool);
}

fn main() -> std::process::ExitCode {
    gateway::cli::main(give_back)
}

fn give_back() {
    // SAFETY: it may be called by any thread at any time, and `ALLOCATOR` links it.
    unsafe { mi_collect(true) }
}
