//! `gateway run --demo`.

pub mod lab;
pub mod netns;

use crate::control::gateway::ReloadError;

/// Runs the demonstration.
pub fn run() -> Result<(), ReloadError> {
    Err(ReloadError::Bind("the demonstration is not there yet".into()))
}
