//! The XDP object. On the host there is nothing to run: `cargo xtask build-ebpf` builds it for the kernel.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod program;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
