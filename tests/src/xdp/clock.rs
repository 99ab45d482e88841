//! Time for the lab's flows: in place of waiting, what the flow tables say of the past is moved further back.

use std::ffi::{CString, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use std::{io, mem, ptr};

use gateway_ebpf::abi::names;
use gateway_ebpf::abi::service::{Flow, FlowKey, Ip4, Ip6, TICK_SHIFT};

/// Makes the flows in the maps pinned below `directory` as they are when nobody says anything for this long.
pub(super) fn advance(directory: &Path, time: Duration) {
    let ticks = (time.as_nanos() >> TICK_SHIFT) as u32;
    // Around zero, as the program's own counting goes: the machine may have been up for less than that.
    for name in [names::ESTABLISHED_V4, names::HALF_OPEN_V4] {
        Pinned::open(&directory.join(name)).each::<FlowKey<Ip4>, Flow<Ip4>>(|flow| {
            flow.seen = flow.seen.wrapping_sub(ticks);
        });
    }
    for name in [names::ESTABLISHED_V6, names::HALF_OPEN_V6] {
        Pinned::open(&directory.join(name)).each::<FlowKey<Ip6>, Flow<Ip6>>(|flow| {
            flow.seen = flow.seen.wrapping_sub(ticks);
        });
    }
}

/// Evicts the entries for the answers of half-open flows, as the kernel does when the table is full.
pub(super) fn evict_answers(directory: &Path) {
    Pinned::open(&directory.join(names::HALF_OPEN_V4)).remove::<FlowKey<Ip4>, Flow<Ip4>>(|flow| flow.reverse != 0);
    Pinned::open(&directory.join(names::HALF_OPEN_V6)).remove::<FlowKey<Ip6>, Flow<Ip6>>(|flow| flow.reverse != 0);
}

struct Pinned(OwnedFd);

impl Pinned {
    fn open(path: &Path) -> Pinned {
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name is a string that lives until the call returns.
        let fd = unsafe { libbpf_sys::bpf_obj_get(name.as_ptr()) };
        assert!(fd >= 0, "{}: {}", path.display(), io::Error::last_os_error());
        // SAFETY: the kernel has just opened this descriptor for nobody else.
        Pinned(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Changes every value. `K` and `V` are those of the map.
    fn each<K: Copy, V>(&self, change: impl Fn(&mut V)) {
        const BPF_EXIST: u64 = 2;
        let fd = self.0.as_raw_fd();
        for key in self.keys::<K>() {
            let key = (&raw const key).cast::<c_void>();
            let mut value = mem::MaybeUninit::<V>::uninit();
            // SAFETY: the pointers are to a key and to room for a value of this map, and the kernel has written the
            // value, which every pattern of bytes is, when it says so.
            let written = unsafe {
                let found = libbpf_sys::bpf_map_lookup_elem(fd, key, value.as_mut_ptr().cast());
                assert_eq!(found, 0, "{}", io::Error::last_os_error());
                change(value.assume_init_mut());
                libbpf_sys::bpf_map_update_elem(fd, key, value.as_ptr().cast(), BPF_EXIST)
            };
            assert_eq!(written, 0, "{}", io::Error::last_os_error());
        }
    }

    /// Removes the values of which this is true.
    fn remove<K: Copy, V: Copy>(&self, which: impl Fn(V) -> bool) {
        let fd = self.0.as_raw_fd();
        for key in self.keys::<K>() {
            let key = (&raw const key).cast::<c_void>();
            let mut value = mem::MaybeUninit::<V>::uninit();
            // SAFETY: as in `each`.
            unsafe {
                let found = libbpf_sys::bpf_map_lookup_elem(fd, key, value.as_mut_ptr().cast());
                assert_eq!(found, 0, "{}", io::Error::last_os_error());
                if which(value.assume_init()) {
                    assert_eq!(libbpf_sys::bpf_map_delete_elem(fd, key), 0, "{}", io::Error::last_os_error());
                }
            }
        }
    }

    fn keys<K: Copy>(&self) -> Vec<K> {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let last = keys.last().map_or(ptr::null(), |key| ptr::from_ref(key).cast());
            let mut next = mem::MaybeUninit::<K>::uninit();
            // SAFETY: the pointers are to a key of this map, or null for the first, and to room for one, which the
            // kernel has filled when it says so.
            unsafe {
                if libbpf_sys::bpf_map_get_next_key(self.0.as_raw_fd(), last, next.as_mut_ptr().cast()) != 0 {
                    return keys;
                }
                keys.push(next.assume_init());
            }
        }
    }
}
