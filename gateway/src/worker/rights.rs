//! What a thread may do.

use caps::{CapSet, errors::CapsError};

/// Gives up every capability of the calling thread, for good. Threads that only move bytes need none, and what breaks into
/// one of them then finds none in it.
pub fn give_up_capabilities() -> Result<(), CapsError> {
    // What is permitted bounds what is in effect, so that goes first.
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    Ok(())
}
