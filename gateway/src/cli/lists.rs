//! `gateway lists`: the access lists as the kernel has them.

use std::net::IpAddr;

use super::ask::Admin;

/// What to look at.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show the entry that decides about this address, in place of all rules.
    address: Option<IpAddr>,
    #[command(flatten)]
    admin: Admin,
}

/// What to print, or what went wrong.
pub fn run(options: Options) -> Result<String, String> {
    match options.address {
        None => options.admin.ask("GET", "/lists", ""),
        Some(address) => options.admin.ask("GET", &format!("/lists/{address}"), ""),
    }
}
