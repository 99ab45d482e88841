//! The XDP object. On the host there is nothing to run: `cargo xtask build-ebpf` builds it for the kernel.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// The counters of entries: stable atomics know no target without compare-and-swap.
#![cfg_attr(target_arch = "bpf", allow(internal_features), feature(core_intrinsics))]

#[cfg(target_arch = "bpf")]
mod program;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
