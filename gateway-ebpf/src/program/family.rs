//! What differs between IPv4 and IPv6: the maps, the header and the routing question.

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use gateway_ebpf::abi::service::{Flow, FlowKey, Ip4, Ip6, SERVICES_MAX, SNAT_MAX, Service, ServiceKey};
use gateway_ebpf::packet::{Ip, checksum};

use super::fragment::{self, Notes};

/// Sizes until the loader sets those of the configuration.
const FLOWS: usize = 1 << 10;

#[btf_map]
static SERVICES_V4: HashMap<ServiceKey<Ip4>, Service, SERVICES_MAX> = HashMap::new();
#[btf_map]
static SERVICES_V6: HashMap<ServiceKey<Ip6>, Service, SERVICES_MAX> = HashMap::new();
#[btf_map]
static VIPS_V4: HashMap<Ip4, u32, SERVICES_MAX> = HashMap::new();
#[btf_map]
static VIPS_V6: HashMap<Ip6, u32, SERVICES_MAX> = HashMap::new();
#[btf_map]
static ESTABLISHED_V4: LruHashMap<FlowKey<Ip4>, Flow<Ip4>, FLOWS> = LruHashMap::new();
#[btf_map]
static ESTABLISHED_V6: LruHashMap<FlowKey<Ip6>, Flow<Ip6>, FLOWS> = LruHashMap::new();
#[btf_map]
static HALF_OPEN_V4: LruHashMap<FlowKey<Ip4>, Flow<Ip4>, FLOWS> = LruHashMap::new();
#[btf_map]
static HALF_OPEN_V6: LruHashMap<FlowKey<Ip6>, Flow<Ip6>, FLOWS> = LruHashMap::new();
#[btf_map]
static SNAT: Array<Ip6, { 2 * SNAT_MAX }> = Array::new();
#[btf_map]
static SCRATCH_V4: PerCpuArray<Scratch<Ip4>, 1> = PerCpuArray::new();
#[btf_map]
static SCRATCH_V6: PerCpuArray<Scratch<Ip6>, 1> = PerCpuArray::new();

/// The flow tables of one IP version.
pub type Table<A> = LruHashMap<FlowKey<A>, Flow<A>, FLOWS>;

/// A flow in the making, which the stack has no room for.
#[repr(C)]
pub struct Scratch<A> {
    pub forward: Flow<A>,
    pub reverse: Flow<A>,
}

/// An IP version, by its address.
pub trait Family: Ip {
    /// `AF_INET` or `AF_INET6`.
    const ADDRESS_FAMILY: u8;

    fn established() -> &'static Table<Self>;
    fn half_open() -> &'static Table<Self>;
    fn fragments() -> &'static Notes<Self>;
    fn service(key: &ServiceKey<Self>) -> Option<*const Service>;
    fn is_vip(&self) -> bool;
    fn scratch() -> Option<*mut Scratch<Self>>;
    /// From the width that backends are stored in.
    fn narrow(wide: Ip6) -> Self;
    /// The other way round.
    fn widen(self) -> Ip6;
    /// Writes the addresses, and in IPv4 the checksum for them and for a TTL of one less if `hop`; in any case of a hop
    /// the TTL itself.
    ///
    /// # Safety
    ///
    /// `header` points to [`Ip::HEADER`] writable bytes.
    unsafe fn write(header: *mut u8, source: Self, destination: Self, delta: u16, hop: bool);
    /// Counts this box as a hop, and nothing else.
    ///
    /// # Safety
    ///
    /// `header` points to [`Ip::HEADER`] writable bytes.
    unsafe fn hop(header: *mut u8);
    /// Writes the addresses of a routing question.
    fn ask(question: &mut bpf_fib_lookup, source: Self, destination: Self);
}

/// The `index`th source address of mode `nat`.
#[inline(always)]
pub fn snat<A: Family>(index: u32) -> Option<A> {
    let first = if A::V6 { SNAT_MAX as u32 } else { 0 };
    SNAT.get(first + index).map(|address| A::narrow(*address))
}

impl Family for Ip4 {
    const ADDRESS_FAMILY: u8 = 2;

    #[inline(always)]
    fn established() -> &'static Table<Ip4> {
        &ESTABLISHED_V4
    }

    #[inline(always)]
    fn half_open() -> &'static Table<Ip4> {
        &HALF_OPEN_V4
    }

    #[inline(always)]
    fn fragments() -> &'static Notes<Ip4> {
        fragment::v4()
    }

    #[inline(always)]
    fn service(key: &ServiceKey<Ip4>) -> Option<*const Service> {
        SERVICES_V4.get_ptr(key)
    }

    #[inline(always)]
    fn is_vip(&self) -> bool {
        VIPS_V4.get_ptr(self).is_some()
    }

    #[inline(always)]
    fn scratch() -> Option<*mut Scratch<Ip4>> {
        SCRATCH_V4.get_ptr_mut(0)
    }

    #[inline(always)]
    fn narrow(wide: Ip6) -> Ip4 {
        wide.0 as u32
    }

    #[inline(always)]
    fn widen(self) -> Ip6 {
        Ip6(self.into(), 0)
    }

    #[inline(always)]
    unsafe fn write(header: *mut u8, source: Ip4, destination: Ip4, delta: u16, hop: bool) {
        // SAFETY: the fields of RFC 791 §3.1 lie within the 20 bytes that the caller vouches for. BPF stores at any
        // address.
        unsafe {
            let ttl = header.add(8);
            let sum = header.add(10).cast::<u16>();
            *sum = checksum::add(*sum, u32::from(delta) + if hop { checksum::TTL_DECREMENT } else { 0 });
            if hop {
                *ttl -= 1;
            }
            *header.add(12).cast::<u32>() = source;
            *header.add(16).cast::<u32>() = destination;
        }
    }

    #[inline(always)]
    unsafe fn hop(header: *mut u8) {
        // SAFETY: as in `write`.
        unsafe {
            *header.add(8) -= 1;
            let sum = header.add(10).cast::<u16>();
            *sum = checksum::add(*sum, checksum::TTL_DECREMENT);
        }
    }

    #[inline(always)]
    fn ask(question: &mut bpf_fib_lookup, source: Ip4, destination: Ip4) {
        question.__bindgen_anon_3.ipv4_src = source;
        question.__bindgen_anon_4.ipv4_dst = destination;
    }
}

impl Family for Ip6 {
    const ADDRESS_FAMILY: u8 = 10;

    #[inline(always)]
    fn established() -> &'static Table<Ip6> {
        &ESTABLISHED_V6
    }

    #[inline(always)]
    fn half_open() -> &'static Table<Ip6> {
        &HALF_OPEN_V6
    }

    #[inline(always)]
    fn fragments() -> &'static Notes<Ip6> {
        fragment::v6()
    }

    #[inline(always)]
    fn service(key: &ServiceKey<Ip6>) -> Option<*const Service> {
        SERVICES_V6.get_ptr(key)
    }

    #[inline(always)]
    fn is_vip(&self) -> bool {
        VIPS_V6.get_ptr(self).is_some()
    }

    #[inline(always)]
    fn scratch() -> Option<*mut Scratch<Ip6>> {
        SCRATCH_V6.get_ptr_mut(0)
    }

    #[inline(always)]
    fn narrow(wide: Ip6) -> Ip6 {
        wide
    }

    #[inline(always)]
    fn widen(self) -> Ip6 {
        self
    }

    #[inline(always)]
    unsafe fn write(header: *mut u8, source: Ip6, destination: Ip6, _delta: u16, hop: bool) {
        // SAFETY: the fields of RFC 8200 §3 lie within the 40 bytes that the caller vouches for. BPF stores at any
        // address.
        unsafe {
            if hop {
                *header.add(7) -= 1;
            }
            *header.add(8).cast::<Ip6>() = source;
            *header.add(24).cast::<Ip6>() = destination;
        }
    }

    #[inline(always)]
    unsafe fn hop(header: *mut u8) {
        // SAFETY: as in `write`.
        unsafe { *header.add(7) -= 1 };
    }

    #[inline(always)]
    fn ask(question: &mut bpf_fib_lookup, source: Ip6, destination: Ip6) {
        let words = |Ip6(a, b): Ip6| [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32];
        question.__bindgen_anon_3.ipv6_src = words(source);
        question.__bindgen_anon_4.ipv6_dst = words(destination);
    }
}
