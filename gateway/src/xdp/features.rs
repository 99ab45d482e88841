//! What this kernel can do, asked of the kernel itself. Pinned links and file systems too: what `gateway doctor` shows.

use std::path::Path;

use super::{Attached, pins};

/// What the program needs, and whether the kernel has it. `None`: the process may not ask.
pub fn features() -> Vec<(&'static str, Option<bool>)> {
    // SAFETY: these only load tiny programs and make tiny maps, which they close again; null options are allowed.
    let (program, map, helper) = unsafe {
        let nothing = std::ptr::null();
        (
            libbpf_sys::libbpf_probe_bpf_prog_type(libbpf_sys::BPF_PROG_TYPE_XDP, nothing),
            [
                ("flow tables (LRU_HASH)", libbpf_sys::BPF_MAP_TYPE_LRU_HASH),
                ("access lists (LPM_TRIE)", libbpf_sys::BPF_MAP_TYPE_LPM_TRIE),
                ("Maglev tables (ARRAY_OF_MAPS)", libbpf_sys::BPF_MAP_TYPE_ARRAY_OF_MAPS),
                ("drop records (RINGBUF)", libbpf_sys::BPF_MAP_TYPE_RINGBUF),
            ]
            .map(|(name, kind)| (name, libbpf_sys::libbpf_probe_bpf_map_type(kind, nothing))),
            [
                ("routes (bpf_fib_lookup)", libbpf_sys::BPF_FUNC_fib_lookup),
                ("frames of several buffers (bpf_xdp_get_buff_len)", libbpf_sys::BPF_FUNC_xdp_get_buff_len),
            ]
            .map(|(name, id)| (name, libbpf_sys::libbpf_probe_bpf_helper(libbpf_sys::BPF_PROG_TYPE_XDP, id, nothing))),
        )
    };
    let all = [("XDP programs", program)].into_iter().chain(map).chain(helper);
    all.map(|(name, answer)| (name, (answer >= 0).then_some(answer == 1))).collect()
}

/// Whether `path`, or the directory that it would be made in, is in a BPF file system.
pub fn can_be_pinned_in(path: &Path) -> bool {
    path.ancestors().find(|path| path.exists()).is_some_and(pins::is_bpf_file_system)
}

/// The numbers of the interfaces whose links are pinned below `root`, and how the program is attached.
pub fn pinned_links(root: &Path) -> Vec<(u32, Attached)> {
    pins::links_below(root).into_iter().map(|link| (link.index, link.attached)).collect()
}
