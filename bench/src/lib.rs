//! Load scenarios against the gateway and its peers; `docs/bench.md` says what is measured and how.
//!
//! `scenario` says who does what, `peer` writes each proxy's configuration, `load` and `origin` are the two ends, `measure`
//! makes the figures of one run, `run` puts the runs in order, and `report` writes them down.

pub mod certs;
pub mod core;
pub mod figure;
pub mod instructions;
pub mod l4;
pub mod load;
pub mod machine;
pub mod measure;
pub mod origin;
pub mod peer;
pub mod poll;
pub mod report;
pub mod run;
pub mod scenario;
pub mod server;
pub mod task;
