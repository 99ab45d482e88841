//! Maps with many entries: whole slices of them in one system call, which aya cannot do. Only this file, `pins`
//! and `probe` name libbpf-sys.
//!
//! A million entries take about a second this way, and a trie half of that when the keys are sorted.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya::Pod;
use libbpf_sys::{bpf_map_batch_opts, bpf_map_create_opts, bpf_map_info};

/// Entries handed to the kernel at once: large enough that the system call does not matter, small enough that the
/// kernel's copy of them is not.
const ENTRIES_PER_CALL: usize = 1 << 16;

/// A map of the kernel whose keys and values have these types. It lives as long as this value, or as a program or
/// another map holds it.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    fd: OwnedFd,
    entries_max: u32,
    of: PhantomData<fn(K, V)>,
}

/// What a [`Table`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An array.
    Array,
    /// An array that this process writes through its own memory.
    MappedArray,
    /// A hash table whose entries are allocated when they come.
    Hash,
    /// A longest-prefix-match trie.
    Trie,
}

impl Kind {
    fn map_type(self) -> libbpf_sys::bpf_map_type {
        match self {
            Kind::Array | Kind::MappedArray => libbpf_sys::BPF_MAP_TYPE_ARRAY,
            Kind::Hash => libbpf_sys::BPF_MAP_TYPE_HASH,
            Kind::Trie => libbpf_sys::BPF_MAP_TYPE_LPM_TRIE,
        }
    }

    fn flags(self) -> u32 {
        match self {
            Kind::Array => 0,
            Kind::MappedArray => libbpf_sys::BPF_F_MMAPABLE,
            Kind::Hash | Kind::Trie => libbpf_sys::BPF_F_NO_PREALLOC,
        }
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// A new map without a name.
    pub fn create(kind: Kind, entries_max: u32) -> io::Result<Table<K, V>> {
        let options = bpf_map_create_opts {
            sz: size_of::<bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: kind.flags(),
            ..Default::default()
        };
        let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
        // SAFETY: no name is a null pointer, and the options live until the call returns.
        let fd =
            unsafe { libbpf_sys::bpf_map_create(kind.map_type(), std::ptr::null(), key, value, entries_max, &options) };
        succeeded(fd)?;
        // SAFETY: the kernel has just opened this descriptor for nobody else.
        Ok(Table { fd: unsafe { OwnedFd::from_raw_fd(fd) }, entries_max, of: PhantomData })
    }

    /// A map that exists, whatever made it. Refused when its keys or values are of another size, so that no call reads
    /// or writes past a slice. For a map of maps, the value is the `u32` of an inner map's descriptor.
    pub fn open(map: BorrowedFd<'_>) -> io::Result<Table<K, V>> {
        let mut info = bpf_map_info::default();
        let mut size = size_of::<bpf_map_info>() as u32;
        // SAFETY: the kernel writes at most `size` bytes into `info`, all of whose bit patterns are values.
        succeeded(unsafe { libbpf_sys::bpf_map_get_info_by_fd(map.as_raw_fd(), &mut info, &mut size) })?;
        if (info.key_size as usize, info.value_size as usize) != (size_of::<K>(), size_of::<V>()) {
            return Err(io::Error::other(format!(
                "its entries have {} and {} bytes, not {} and {}",
                info.key_size,
                info.value_size,
                size_of::<K>(),
                size_of::<V>()
            )));
        }
        Ok(Table { fd: map.try_clone_to_owned()?, entries_max: info.max_entries, of: PhantomData })
    }

    /// Adds these entries, or gives those that are there these values. After an error, some are done.
    pub fn update(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len(), "a value for each key");
        for (keys, values) in keys.chunks(ENTRIES_PER_CALL).zip(values.chunks(ENTRIES_PER_CALL)) {
            let mut count = keys.len() as u32;
            // SAFETY: both slices have `count` elements of the sizes the map has, as `create` and `open` saw to.
            succeeded(unsafe {
                libbpf_sys::bpf_map_update_batch(
                    self.fd.as_raw_fd(),
                    keys.as_ptr().cast(),
                    values.as_ptr().cast(),
                    &mut count,
                    &OPTIONS,
                )
            })?;
        }
        Ok(())
    }

    /// Removes these entries; one that is not there is no error.
    pub fn remove(&self, mut keys: &[K]) -> io::Result<()> {
        while !keys.is_empty() {
            let mut count = keys.len().min(ENTRIES_PER_CALL) as u32;
            // SAFETY: the slice has at least `count` elements of the size the map's keys have.
            let result = succeeded(unsafe {
                libbpf_sys::bpf_map_delete_batch(self.fd.as_raw_fd(), keys.as_ptr().cast(), &mut count, &OPTIONS)
            });
            // The kernel stops at the first key that is missing, and says how many it removed before.
            let missing = match result {
                Ok(()) => 0,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => 1,
                Err(error) => return Err(error),
            };
            keys = &keys[(count as usize + missing).min(keys.len())..];
        }
        Ok(())
    }

    /// Removes one entry; that it is not there is no error. The way for maps of maps, which know no batches of removals.
    pub fn remove_one(&self, key: &K) -> io::Result<()> {
        // SAFETY: the key has the size the map's keys have.
        let result =
            succeeded(unsafe { libbpf_sys::bpf_map_delete_elem(self.fd.as_raw_fd(), std::ptr::from_ref(key).cast()) });
        match result {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// What a map of maps is given to hold this one.
    pub fn descriptor(&self) -> u32 {
        self.fd.as_raw_fd() as u32
    }

    /// The value of a key. For a map whose values are there once, not once for each CPU.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = std::mem::MaybeUninit::<V>::zeroed();
        // SAFETY: the key has the size the map's keys have, and there is room for a value.
        let result = succeeded(unsafe {
            libbpf_sys::bpf_map_lookup_elem(
                self.fd.as_raw_fd(),
                std::ptr::from_ref(key).cast(),
                value.as_mut_ptr().cast(),
            )
        });
        match result {
            // SAFETY: every byte is initialised, by zero or by the kernel, and every bit pattern of a `Pod` is a value.
            Ok(()) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many entries there may be.
    pub fn entries_max(&self) -> u32 {
        self.entries_max
    }

    /// What lies in up to so many buckets of a hash table, and which part of the table they are. Entries are spread by a hash
    /// with a random seed, so the sample is a fair one whatever the keys are.
    ///
    /// The kernel reads on through empty buckets, so it is asked for the last ones. That a batch begins at the number of a
    /// bucket, and that there are as many as the next power of two of the entries, is so since batches exist (Linux 5.6),
    /// and promised nowhere.
    pub fn sample(&self, buckets: u32) -> io::Result<(Vec<(K, V)>, f64)> {
        let all = self.entries_max.next_power_of_two();
        let first = all.saturating_sub(buckets);
        // There are no more entries than buckets, so many more than these are not in them.
        let room = 2 * (all - first) as usize + 64;
        let mut keys = vec![std::mem::MaybeUninit::<K>::zeroed(); room];
        let mut values = vec![std::mem::MaybeUninit::<V>::zeroed(); room];
        let (mut from, mut next, mut count) = (first, 0_u32, room as u32);
        // SAFETY: both vectors have room for `count` elements of the sizes the map has, as `create` and `open` saw to, and
        // the places in a hash table are four bytes.
        let result = succeeded(unsafe {
            libbpf_sys::bpf_map_lookup_batch(
                self.fd.as_raw_fd(),
                (&raw mut from).cast(),
                (&raw mut next).cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &mut count,
                &OPTIONS,
            )
        });
        match result {
            // At the end of the table.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
        let entries = keys.iter().zip(&values).take(count as usize);
        // SAFETY: every byte is initialised, by zero or by the kernel, and every bit pattern of a `Pod` is a value.
        let entries = entries.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) }).collect();
        Ok((entries, f64::from(next.clamp(first, all) - first) / f64::from(all)))
    }

    /// The values of an array with so many places.
    pub fn array(&self, places: usize) -> io::Result<Vec<V>> {
        let mut keys = vec![std::mem::MaybeUninit::<K>::zeroed(); places];
        let mut values = vec![std::mem::MaybeUninit::<V>::zeroed(); places];
        let mut next = std::mem::MaybeUninit::<K>::zeroed();
        let mut count = places as u32;
        // SAFETY: both vectors have room for `count` elements of the sizes the map has, as `create` and `open` saw to, and
        // `next` for a key, which is where another call would go on.
        let result = succeeded(unsafe {
            libbpf_sys::bpf_map_lookup_batch(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                next.as_mut_ptr().cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &mut count,
                &OPTIONS,
            )
        });
        match result {
            // The kernel may say so when it has come to the end.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            // SAFETY: every byte is initialised, by zero or by the kernel, and every bit pattern of a `Pod` is a value.
            _ => Ok(values.iter().map(|value| unsafe { value.assume_init() }).take(count as usize).collect()),
        }
    }
}

impl<K, V> AsFd for Table<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const OPTIONS: bpf_map_batch_opts =
    bpf_map_batch_opts { sz: size_of::<bpf_map_batch_opts>() as libbpf_sys::size_t, elem_flags: 0, flags: 0 };

/// libbpf's functions return the negated error number.
fn succeeded(result: i32) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
