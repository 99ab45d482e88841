//! Packets that no established flow has: those of half-open flows, and the first ones; and first fragments.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use gateway_ebpf::Reason;
use gateway_ebpf::abi::service::{
    Backend, Flow, FlowKey, MAGLEV_SIZE, SERVICES_MAX, Service, ServiceKey, Settings, Table, heard, mode,
};
use gateway_ebpf::packet::{Packet, RST, checksum, hash};

use super::balance::flow_key;
use super::family::{self, Family, Scratch};
use super::{Next, cookie, count, drop, drop_by, flow, is_all_here, is_to_a_group, parse, pass, pass_by, settings};

#[btf_map]
static MAGLEV: ArrayOfMaps<Array<Table, 1>, SERVICES_MAX> = ArrayOfMaps::new();
#[btf_map]
static NEW_FLOWS: PerCpuArray<Window, 1> = PerCpuArray::new();

/// Flows begun on this CPU.
#[repr(C)]
struct Window {
    tick: u32,
    flows: u32,
}

/// Source ports tried for a flow. In a range of which nine tenths are taken, six in ten flows find one; the third and
/// later tries take the port of a flow that was never answered.
const TRIES: u32 = 6;
const STEAL_FROM: u32 = 2;

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

#[inline(never)]
pub fn packet<A: Family>(ctx: *mut xdp_md, otherwise: u32) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let Some(packet) = parse::<A>(ctx).filter(|packet| is_all_here(ctx, packet)) else {
        return pass(Reason::Malformed);
    };
    let key = flow_key(&packet);
    let now = settings::tick();
    // In this order: a flow that another CPU is moving is in the second table before it leaves the first.
    if let Some(found) = A::half_open().get_ptr_mut(&key) {
        flow::revive_half_open(found, packet.protocol, now);
        // SAFETY: an element of a map stays memory of the map while the program runs, though it may become another
        // flow's (see `flow`): integers, of which each value may be read.
        let half_open = unsafe { &mut *found };
        let has_lost = flow::has_lost_its_answers(half_open, packet.protocol) != 0;
        if !has_lost && flow::half_open_is_usable::<A>(half_open, packet.protocol, now) {
            return go_on(&packet, &key, half_open, now);
        }
        flow::forget_half_open(&key, half_open);
    }
    if let Some(found) = A::established().get_ptr_mut(&key) {
        flow::revive(found, packet.protocol, now);
        if flow::usable(found, &packet, now) {
            if flow::ends(&packet) {
                flow::note_end(&key, found, packet.flags);
            }
            return Next::send::<A>();
        }
        // SAFETY: as above.
        flow::forget_established(&key, unsafe { &*found });
    }
    let service = ServiceKey {
        address: packet.destination,
        port: (packet.ports >> 16) as u16,
        protocol: packet.protocol as u16,
        zero: 0,
    };
    match A::service(&service) {
        Some(_) if is_to_a_group(ctx) => pass_by(otherwise),
        // SAFETY: as above; user space replaces whole elements, by new ones.
        Some(service) => first(ctx, &packet, &key, unsafe { &*service }, now),
        None => cookie::or_pass_by(&packet, otherwise),
    }
}

/// Another packet of a half-open flow.
#[inline(always)]
fn go_on<A: Family>(packet: &Packet<A>, key: &FlowKey<A>, half_open: &mut Flow<A>, now: u32) -> u32 {
    flow::note_packet(half_open, packet.protocol, now);
    if flow::ends(packet) {
        flow::note_end(key, half_open, packet.flags);
    }
    if flow::establishes(half_open, packet) {
        flow::establish(key, half_open);
    }
    Next::send::<A>()
}

/// The first packet of a flow, or one of a flow that was forgotten: a TCP connection then goes on if it gets the same
/// port again, and is reset by the backend if not, which is better than silence.
#[inline(always)]
fn first<A: Family>(ctx: &XdpContext, packet: &Packet<A>, key: &FlowKey<A>, service: &Service, now: u32) -> u32 {
    if service.mode == mode::LOCAL {
        let bytes = u64::from(packet.length);
        count::service(service.id, |counts| {
            counts.local_packets += 1;
            counts.local_bytes += bytes;
        });
        return cookie::or_pass(packet, Reason::Local);
    }
    if packet.ttl <= 1 {
        return drop(Reason::Expired);
    }
    match begin(ctx, packet, key, service, now) {
        Ok(()) => Next::send::<A>(),
        Err(reason) => {
            count::service(service.id, |counts| counts.dropped += 1);
            drop_by(reason, service.id + 1)
        }
    }
}

#[inline(always)]
fn begin<A: Family>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    key: &FlowKey<A>,
    service: &Service,
    now: u32,
) -> Result<(), Reason> {
    if packet.flags & RST != 0 {
        return Err(Reason::NoFlow);
    }
    if service.drain != 0 {
        return Err(Reason::Draining);
    }
    let settings = settings::get().ok_or(Reason::NoRoom)?;
    if !within_limit(settings, now) {
        return Err(Reason::NewFlowLimit);
    }
    let hash = flow_hash(packet, service);
    let slot = choose(service.id, hash).ok_or(Reason::NoBackend)?;
    let backend = flow::backend(slot).ok_or(Reason::NoBackend)?;
    if backend.living_epoch() == 0 {
        return Err(Reason::NoBackend);
    }
    let scratch = A::scratch().ok_or(Reason::NoRoom)?;
    // SAFETY: the element is this CPU's own, and the program is not interrupted by itself on one CPU.
    let scratch = unsafe { &mut *scratch };
    describe(ctx, packet, service, settings, (slot, backend), hash, scratch, now);
    if flow::has_answers(&scratch.forward) {
        reserve(packet, service.mode, settings, backend, scratch, now)?;
    }
    A::half_open().insert(key, &scratch.forward, BPF_ANY).map_err(|_| Reason::NoRoom)?;
    count::backend(slot, |counts| counts.flows += 1);
    Ok(())
}

#[inline(always)]
fn within_limit(settings: &Settings, now: u32) -> bool {
    let Some(window) = NEW_FLOWS.get_ptr_mut(0) else { return false };
    // SAFETY: the element is this CPU's own, and the program is not interrupted by itself on one CPU.
    let window = unsafe { &mut *window };
    if window.tick != now {
        *window = Window { tick: now, flows: 0 };
    }
    window.flows += 1;
    window.flows <= settings.new_per_tick
}

#[inline(always)]
fn flow_hash<A: Family>(packet: &Packet<A>, service: &Service) -> u32 {
    let ports = if service.by_source != 0 { 0 } else { packet.ports };
    hash([packet.source.mix(), ports, packet.destination.mix()], packet.protocol)
}

#[inline(always)]
fn choose(service: u32, hash: u32) -> Option<u32> {
    let table = MAGLEV.get_value(service, &0)?;
    let place = ((u64::from(hash) * MAGLEV_SIZE as u64) >> 32) as usize;
    if place >= MAGLEV_SIZE {
        return None;
    }
    // `NO_BACKEND` is behind the last slot.
    Some(u32::from(table.0[place]))
}

/// Writes both directions, as far as they do not depend on the source port.
#[expect(clippy::too_many_arguments, reason = "each is one thing that decides on a flow")]
#[inline(always)]
fn describe<A: Family>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    service: &Service,
    settings: &Settings,
    (slot, backend): (u32, &Backend),
    hash: u32,
    scratch: &mut Scratch<A>,
    now: u32,
) {
    let source = match service.mode {
        mode::NAT | mode::IPIP => snat(settings, backend, hash),
        _ => packet.source,
    };
    let silent = |source, destination, ports| Flow {
        source,
        destination,
        ports,
        transport_delta: 0,
        ip_delta: 0,
        macs: [0; 3],
        interface: 0,
        backend: slot,
        service: service.id,
        epoch: backend.epoch,
        seen: now,
        // The next hop is looked up when the flow is first used.
        resolved: now.wrapping_sub(1),
        begun: now,
        mtu: 0,
        mode: service.mode as u8,
        reverse: 0,
        spoken: heard::SILENCE,
        fin: 0,
        peer_fin: 0,
        reset: 0,
    };
    // Where the answers do not come by there is none to wait for, and the client's FIN is the end.
    let is_unseen = matches!(service.mode, mode::DSR | mode::IPIP);
    scratch.forward = Flow {
        spoken: if is_unseen { heard::ANSWER } else { heard::SPEECH },
        peer_fin: u8::from(is_unseen),
        ..silent(source, A::narrow(backend.address), packet.ports)
    };
    scratch.reverse = Flow {
        macs: returning(ctx),
        interface: ctx.ingress_ifindex() as u32,
        reverse: 1,
        ..silent(packet.destination, packet.source, packet.ports.rotate_left(16))
    };
}

/// The frame's MAC addresses the other way round.
#[inline(always)]
fn returning(ctx: &XdpContext) -> [u32; 3] {
    let start = ctx.data();
    if start + 12 > ctx.data_end() {
        return [0; 3];
    }
    let words = start as *const u32;
    // SAFETY: twelve bytes are readable by the comparison above; BPF loads from any address.
    let [a, b, c] = unsafe { [*words, *words.add(1), *words.add(2)] };
    // In memory: a and half of b are the destination, the other half and c the source.
    [(b >> 16) | (c << 16), (c >> 16) | (a << 16), (a >> 16) | (b << 16)]
}

#[inline(always)]
fn snat<A: Family>(settings: &Settings, backend: &Backend, hash: u32) -> A {
    let count = settings.snat[usize::from(A::V6)];
    // The high bits of the hash chose the backend.
    let index = (u64::from(hash.rotate_left(16)) * u64::from(count)) >> 32;
    match family::snat(index as u32) {
        Some(address) if count > 0 => address,
        _ => A::narrow(backend.snat),
    }
}

/// Takes a source port by inserting the entry of the reverse direction, which succeeds for one flow only, and completes
/// the forward direction with it.
#[inline(always)]
fn reserve<A: Family>(
    packet: &Packet<A>,
    how: u32,
    settings: &Settings,
    backend: &Backend,
    scratch: &mut Scratch<A>,
    now: u32,
) -> Result<(), Reason> {
    let Scratch { forward, reverse } = scratch;
    let outside = packet.source.sum() + packet.destination.sum();
    let inside = forward.source.sum() + forward.destination.sum();
    let ports = |word: u32| u64::from(word & 0xffff) + u64::from(word >> 16);
    forward.ip_delta = checksum::delta(outside, inside);
    reverse.ip_delta = checksum::delta(inside, outside);

    let own = packet.ports & 0xffff;
    let in_range = u32::from(u16::from_be(own as u16)).wrapping_sub(settings.port_first) < settings.port_count;
    let keep = how == mode::DNAT || in_range;
    for attempt in 0..TRIES {
        let port = if keep && attempt == 0 { own } else { random_port(settings) };
        forward.ports = port | (u32::from(backend.port) << 16);
        forward.transport_delta = checksum::delta(outside + ports(packet.ports), inside + ports(forward.ports));
        reverse.transport_delta = checksum::delta(inside + ports(forward.ports), outside + ports(packet.ports));
        let key = FlowKey::answering(forward, packet.protocol);
        if take::<A>(&key, reverse, attempt >= STEAL_FROM || how == mode::DNAT, now) {
            return Ok(());
        }
        if how == mode::DNAT {
            break;
        }
    }
    Err(Reason::NoPort)
}

#[inline(always)]
fn random_port(settings: &Settings) -> u32 {
    // SAFETY: the helper has no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let offset = (u64::from(random) * u64::from(settings.port_count)) >> 32;
    u32::from(((settings.port_first + offset as u32) as u16).to_be())
}

/// Whether the entry is this flow's now.
#[inline(never)]
fn take<A: Family>(key: &FlowKey<A>, entry: &Flow<A>, steal: bool, now: u32) -> bool {
    if A::half_open().insert(key, entry, BPF_NOEXIST).is_err() {
        let Some(holder) = A::half_open().get_ptr(key) else { return false };
        // SAFETY: an element of a map stays memory of the map while the program runs.
        let holder = unsafe { &*holder };
        let is_dead = flow::half_open_is_over(holder, key.protocol, now)
            && flow::half_open_is_over_the_other_way(holder, key.protocol, now);
        if !is_dead && !(steal && holder.spoken == heard::SILENCE) {
            return false;
        }
        flow::forget_half_open(key, holder);
        if A::half_open().insert(key, entry, BPF_NOEXIST).is_err() {
            return false;
        }
    }
    let Some(holder) = A::established().get_ptr(key) else { return true };
    // SAFETY: as above.
    let holder = unsafe { &*holder };
    if flow::is_over(holder, key.protocol, now) && flow::is_over_the_other_way(holder, key.protocol, now) {
        flow::forget_established(key, holder);
        return true;
    }
    let _ = A::half_open().remove(key);
    false
}
