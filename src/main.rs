//! The binary. Everything is in the library.

use std::process::ExitCode;

/// The table is many small pieces: this allocator packs them into huge pages where the system
/// has them, so that a look-up among 100,000 hosts does not miss the translation of each.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portolan::cli::main()
}
