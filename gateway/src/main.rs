//! The `gateway` program; everything is in the library.

/// The system's allocator merges and splits its blocks again for every request; this one keeps them by size.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    gateway::cli::main()
}
