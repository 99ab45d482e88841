#![cfg_attr(target_arch = "bpf", no_std)]
//! Types shared by the XDP program and user space.
