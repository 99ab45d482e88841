//! The control thread: an ordinary tokio runtime beside the workers. It reads files, watches them, builds snapshots,
//! answers the admin endpoint and speaks with the service manager.

pub mod acme;
pub mod admin;
pub mod certificates;
pub mod config_view;
mod counts;
mod drop_log;
mod endpoints_view;
pub mod fleet;
pub mod gateway;
pub mod health;
mod http_client;
mod kept;
mod limits;
mod lists_view;
pub mod log_writer;
pub mod notify;
pub mod outliers;
mod overload;
pub mod privileges;
pub mod renew;
pub mod resolve;
pub mod run;
pub mod services;
pub mod shared;
pub mod source;
pub mod store;
pub mod tickets;
pub mod watch;
