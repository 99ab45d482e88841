//! `gateway bans`: sources that are refused for a while.

use std::net::IpAddr;

use super::ask::Admin;

/// What to do with bans.
#[derive(Debug, clap::Subcommand)]
pub enum Bans {
    /// Who is banned, since when, until when and why.
    List {
        /// Whom to ask.
        #[command(flatten)]
        admin: Admin,
    },
    /// Why an address is banned.
    Why {
        /// The address.
        address: IpAddr,
        /// Whom to ask.
        #[command(flatten)]
        admin: Admin,
    },
    /// End the ban of an address.
    Undo {
        /// The address.
        address: IpAddr,
        /// Whom to ask.
        #[command(flatten)]
        admin: Admin,
    },
    /// Ban an IPv4 address, or the network of 64 bits of an IPv6 address.
    Add {
        /// The address.
        address: IpAddr,
        /// For how long, such as 10m; at most 7 days.
        #[arg(long, default_value = "1h")]
        ttl: String,
        /// Why, for those who ask later.
        #[arg(long, default_value = "by hand", value_name = "TEXT")]
        reason: String,
        /// Whom to ask.
        #[command(flatten)]
        admin: Admin,
    },
}

/// What to print, or what went wrong.
pub fn run(command: Bans) -> Result<String, String> {
    match command {
        Bans::List { admin } => admin.ask("GET", "/bans", ""),
        Bans::Why { address, admin } => admin.ask("GET", &format!("/bans/{address}"), ""),
        Bans::Undo { address, admin } => admin.ask("DELETE", &format!("/bans/{address}"), ""),
        Bans::Add { address, ttl, reason, admin } => {
            let body = serde_json::json!({ "ttl": ttl, "reason": reason }).to_string();
            admin.ask("POST", &format!("/bans/{address}"), &body)
        }
    }
}
