//! Certificates that are obtained by ACME (RFC 8555) and renewed.

mod account;
mod client;
mod failure;
mod order;
pub mod proof;
pub mod schedule;
