//! The life of a flow: half-open, established, closing, forgotten.
//!
//! A flow is two entries, one for each direction, except in the modes `dsr` and `ipip`, in which the box does not see the
//! answers. They begin in the table of half-open flows. The client's first packet after the answer moves both to the
//! established ones, so who only sends first packets, with whatever source, fills the first table and evicts nothing
//! of the second.
//!
//! An entry is used without a lock. Its memory stays the map's, but an entry that another CPU deletes or evicts meanwhile
//! becomes that of another flow at once, for tables of this kind do not wait for readers. In that moment, of less than a
//! microsecond, a packet may get parts of another flow's addresses, and its receiver finds the checksum wrong or no
//! connection; or the other flow is marked as seen, ended or looked up by this packet. The first costs one packet, as loss
//! does; the second lasts until the next lookup, or at worst has that flow forgotten early.

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use gateway_ebpf::abi::service::{BACKENDS_MAX, Backend, Flow, FlowKey, Timeouts, heard, mode, ticks_since};
use gateway_ebpf::packet::{FIN, Packet, RST, SYN, protocol};

// Functions of their own keep their keys off the stack of `begin`, and return a number because BPF functions do.
use super::family::{Family, Table};
use super::settings;

#[btf_map]
static BACKENDS: Array<Backend, BACKENDS_MAX> = Array::new();

const BPF_ANY: u64 = 0;

/// A backend's slot.
#[inline(always)]
pub fn backend(slot: u32) -> Option<&'static Backend> {
    BACKENDS.get(slot)
}

/// Whether an established flow goes on with this packet: neither side has been silent for too long, its backend is
/// alive, and it is not the SYN of a new connection after the end of this one.
#[inline(always)]
pub fn usable<A: Family>(flow: *mut Flow<A>, packet: &Packet<A>, now: u32) -> bool {
    // SAFETY: the pointer is to an element of a map, which stays memory of the map while the program runs, whether or not
    // it stays this flow's. Other CPUs may write fields meanwhile, and each of their values is one that may be read.
    let flow = unsafe { &mut *flow };
    if flow.seen != now {
        if is_over(flow, packet.protocol, now) {
            return false;
        }
        flow.seen = now;
    }
    if packet.flags & SYN != 0 && is_closing(flow) {
        return false;
    }
    flow.reverse != 0 || backend_is_alive(flow)
}

/// Whether the backend is the one that the flow began with, and alive.
#[inline(always)]
fn backend_is_alive<A>(flow: &Flow<A>) -> bool {
    backend(flow.backend).is_some_and(|backend| backend.living_epoch() == flow.epoch)
}

/// Whether an established flow has been silent for too long.
#[inline(always)]
pub fn is_over<A>(flow: &Flow<A>, transport: u32, now: u32) -> bool {
    let Some(settings) = settings::get() else { return true };
    ticks_since(flow.seen, now) > timeout(flow, transport, &settings.timeouts)
}

/// Whether the other direction of an established flow has been silent for too long, or is none. A flow of which one side
/// only listens is alive.
#[inline(always)]
pub fn is_over_the_other_way<A: Family>(flow: &Flow<A>, transport: u32, now: u32) -> bool {
    let other = A::established().get_ptr(&FlowKey::answering(flow, transport));
    // SAFETY: as in `usable`.
    other.is_none_or(|other| is_over(unsafe { &*other }, transport, now))
}

/// The same for a half-open flow.
#[inline(always)]
pub fn half_open_is_over_the_other_way<A: Family>(flow: &Flow<A>, transport: u32, now: u32) -> bool {
    let other = A::half_open().get_ptr(&FlowKey::answering(flow, transport));
    // SAFETY: as in `usable`.
    other.is_none_or(|other| half_open_is_over(unsafe { &*other }, transport, now))
}

/// Makes a direction of an established flow that has been silent go on, if the other one has not.
#[inline(never)]
pub fn revive<A: Family>(flow: *mut Flow<A>, transport: u32, now: u32) -> u32 {
    // SAFETY: as in `usable`.
    let flow = unsafe { &mut *flow };
    if is_over(flow, transport, now) && !is_over_the_other_way(flow, transport, now) {
        flow.seen = now;
    }
    0
}

/// The same for a half-open flow.
#[inline(never)]
pub fn revive_half_open<A: Family>(flow: *mut Flow<A>, transport: u32, now: u32) -> u32 {
    // SAFETY: as in `usable`.
    let flow = unsafe { &mut *flow };
    if half_open_is_over(flow, transport, now) && !half_open_is_over_the_other_way(flow, transport, now) {
        flow.seen = now;
    }
    0
}

/// Whether the note of a first fragment may be followed: no other packet has had its identification since, and its
/// backend is alive.
#[inline(always)]
pub fn note_is_usable<A>(note: *mut Flow<A>, now: u32) -> bool {
    /// Receivers wait for 30 to 60 s (RFC 1122 §3.3.2, RFC 8200 §4.5), but fragments come together, and the
    /// identifications of IPv4 begin again soon (RFC 6864 §4).
    const NOTED_FOR: u32 = 28;
    // SAFETY: as in `usable`.
    let note = unsafe { &*note };
    ticks_since(note.seen, now) <= NOTED_FOR && (note.reverse != 0 || backend_is_alive(note))
}

#[inline(always)]
fn timeout<A>(flow: &Flow<A>, transport: u32, timeouts: &Timeouts) -> u32 {
    if transport == protocol::UDP {
        timeouts.udp
    } else if is_closing(flow) {
        timeouts.closing
    } else {
        timeouts.established
    }
}

/// After a RST, or after both sides have said that they send no more: a connection closed by one side only goes on.
#[inline(always)]
fn is_closing<A>(flow: &Flow<A>) -> bool {
    flow.reset | (flow.fin & flow.peer_fin) != 0
}

/// Whether the packet ends one direction of its flow, or both.
#[inline(always)]
pub fn ends<A>(packet: &Packet<A>) -> bool {
    packet.flags & (FIN | RST) != 0
}

/// Writes the end into the entries of both directions.
#[inline(never)]
pub fn note_end<A: Family>(key: &FlowKey<A>, flow: *mut Flow<A>, flags: u8) -> u32 {
    // SAFETY: as in `usable`.
    let flow = unsafe { &mut *flow };
    let other = FlowKey::answering(flow, key.protocol);
    mark(flow, flags, Side::Sender);
    let found = A::established().get_ptr_mut(&other).or_else(|| A::half_open().get_ptr_mut(&other));
    if let Some(found) = found {
        // SAFETY: as in `usable`.
        mark(unsafe { &mut *found }, flags, Side::Receiver);
    }
    0
}

enum Side {
    Sender,
    Receiver,
}

#[inline(always)]
fn mark<A>(flow: &mut Flow<A>, flags: u8, side: Side) {
    if flags & RST != 0 {
        flow.reset = 1;
    }
    if flags & FIN != 0 {
        match side {
            Side::Sender => flow.fin = 1,
            Side::Receiver => flow.peer_fin = 1,
        }
    }
}

/// Whether a half-open flow goes on with this packet.
#[inline(always)]
pub fn half_open_is_usable<A: Family>(flow: &Flow<A>, transport: u32, now: u32) -> bool {
    !half_open_is_over(flow, transport, now) && (flow.reverse != 0 || backend_is_alive(flow))
}

/// Whether nobody answered a half-open flow in time.
#[inline(always)]
pub fn half_open_is_over<A>(flow: &Flow<A>, transport: u32, now: u32) -> bool {
    let Some(settings) = settings::get() else { return true };
    let timeouts = &settings.timeouts;
    let timeout = if transport == protocol::UDP { timeouts.udp } else { timeouts.half_open };
    flow.reset != 0 || ticks_since(flow.seen, now) > timeout
}

/// A half-open flow of UDP that goes on as it has begun. Many never become established: the client only sends, or is only
/// answered. TCP has no such flows.
#[inline(always)]
pub fn one_sided<A: Family>(key: &FlowKey<A>) -> Option<*mut Flow<A>> {
    if key.protocol != protocol::UDP {
        return None;
    }
    // SAFETY: as in `usable`.
    A::half_open().get_ptr_mut(key).filter(|flow| unsafe { (**flow).spoken } == heard::SPEECH)
}

/// Notes that a half-open flow's direction has had a packet. The first one of a backend tells the client's direction.
#[inline(always)]
pub fn note_packet<A: Family>(flow: &mut Flow<A>, transport: u32, now: u32) {
    flow.seen = now;
    if flow.spoken == heard::SILENCE {
        flow.spoken = heard::SPEECH;
        note_answer(flow, transport);
    }
}

#[inline(never)]
fn note_answer<A: Family>(answer: &Flow<A>, transport: u32) -> u32 {
    let client = FlowKey::answering(answer, transport);
    if let Some(flow) = A::half_open().get_ptr_mut(&client) {
        // SAFETY: as in `usable`.
        unsafe { (*flow).spoken = heard::ANSWER };
    }
    0
}

/// Whether this packet of a half-open flow's client makes it an established one.
#[inline(always)]
pub fn establishes<A: Family>(flow: &Flow<A>, packet: &Packet<A>) -> bool {
    flow.reverse == 0 && packet.flags & SYN == 0 && flow.spoken == heard::ANSWER
}

/// Whether the entry for the backend's answers was evicted, so that nobody can get any: 1 is yes.
#[inline(never)]
pub fn has_lost_its_answers<A: Family>(flow: &Flow<A>, transport: u32) -> u32 {
    if flow.reverse != 0 || !has_answers(flow) {
        return 0;
    }
    let answer = FlowKey::answering(flow, transport);
    // In this order: another CPU may be moving it.
    let found = A::half_open().get_ptr(&answer).or_else(|| A::established().get_ptr(&answer));
    u32::from(found.is_none())
}

/// Moves both directions. They are in both tables for a moment, never in none.
#[inline(never)]
pub fn establish<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) -> u32 {
    let answer = FlowKey::answering(flow, key.protocol);
    if has_answers(flow) && !copy(&answer) {
        return 1;
    }
    if copy(key) {
        let _ = A::half_open().remove(key);
        let _ = A::half_open().remove(&answer);
    }
    0
}

#[inline(always)]
fn copy<A: Family>(key: &FlowKey<A>) -> bool {
    let Some(flow) = A::half_open().get_ptr(key) else { return false };
    // SAFETY: as in `usable`.
    A::established().insert(key, unsafe { &*flow }, BPF_ANY).is_ok()
}

/// Forgets both directions of an established flow.
#[inline(never)]
pub fn forget_established<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) -> u32 {
    forget(A::established(), key, flow)
}

/// Forgets both directions of a half-open flow.
#[inline(never)]
pub fn forget_half_open<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) -> u32 {
    forget(A::half_open(), key, flow)
}

#[inline(always)]
fn forget<A: Family>(table: &Table<A>, key: &FlowKey<A>, flow: &Flow<A>) -> u32 {
    let answer = FlowKey::answering(flow, key.protocol);
    let _ = table.remove(&answer);
    let _ = table.remove(key);
    0
}

/// Whether the backend's answers come through the box.
#[inline(always)]
pub fn has_answers<A>(flow: &Flow<A>) -> bool {
    u32::from(flow.mode) == mode::NAT || u32::from(flow.mode) == mode::DNAT
}
