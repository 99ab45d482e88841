//! What the XDP program and user space share: the layout of the maps, the reasons for a verdict and the packet parser.
//!
//! The library compiles for the host and for BPF, so the parser is tested where tests are easy and the types exist
//! once. The program itself is the binary of this package; on the host that binary is empty.

#![cfg_attr(target_arch = "bpf", no_std)]

pub mod abi;
pub mod packet;
mod reason;

pub use reason::Reason;
