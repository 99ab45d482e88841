//! What a packet costs among access lists, and what it takes to compile and load them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context, Result};
use gateway::config::model::{self, AccessAction, AccessRule, XdpMode};
use gateway::xdp::{self, Xdp};
use gateway_tests::empty_xdp::EmptyXdp;
use gateway_tests::lab::Namespace;
use gateway_tests::packet::Build;
use ipnet::{IpNet, Ipv4Net};

use super::{median, nanoseconds};
use crate::figure::{Figure, Sample};
use crate::run::Entry;

const REPEAT: u32 = 200;
const SIZES: [u32; 3] = [1_000, 100_000, 1_000_000];
/// Sources that are looked up in turn: more than the caches next to the core hold.
const SOURCES: u32 = 4_000;

pub fn run(rounds: usize) -> Result<Vec<Entry>> {
    let empty = EmptyXdp::load()?;
    let mut entries = Vec::new();
    for _ in 0..rounds {
        for size in SIZES {
            one_size(&empty, size, &mut entries)?;
        }
    }
    Ok(entries)
}

fn one_size(empty: &EmptyXdp, size: u32, entries: &mut Vec<Entry>) -> Result<()> {
    let namespace = Namespace::new("gateway");
    let access = [rule(size)];
    let (xdp, took) = namespace.enter(|| -> Result<(Xdp, f64)> {
        let config =
            model::Xdp { interfaces: vec!["lo".into()], mode: XdpMode::Generic, pin: None, ..model::Xdp::default() };
        let mut xdp = xdp::attach(&config, &[])?;
        let started = Instant::now();
        xdp.sync(&config, &access)?;
        Ok((xdp, started.elapsed().as_secs_f64() * 1e3))
    })?;
    Entry::note_in(entries, &format!("{size} entries, compile and load"), Sample::from([(Figure::Milliseconds, took)]));
    // Class E, of which no entry is.
    let missing: Vec<Vec<u8>> = (0..SOURCES).map(|at| frame(0xf000_0000 + at * 65_537)).collect();
    let hit = [frame(source_of(5))];
    let cases = [
        ("miss", &missing[..1], REPEAT),
        ("miss, other sources in turn, one run each", &missing[..], 1),
        ("hit", &hit[..], REPEAT),
    ];
    for (name, frames, repeat) in cases {
        let mut turn = frames.iter().cycle();
        let mut next = || turn.next().map(Vec::as_slice).unwrap_or_default();
        let probe = || Ok(xdp.probe(next(), repeat)?.context("XDP is off")?.per_packet.as_nanos());
        let ours = namespace.enter(|| median(probe))?;
        let nothing = median(|| Ok(empty.nanoseconds(&frames[0], repeat)?))?;
        Entry::note_in(entries, &format!("{size} entries, {name}"), nanoseconds(ours - nothing));
    }
    Ok(())
}

/// Mostly single addresses, some networks, all over the address space.
fn rule(size: u32) -> AccessRule {
    let prefix = |at: u32| {
        let length = [32, 32, 32, 32, 32, 32, 32, 24, 24, 28][at as usize % 10];
        let network = Ipv4Net::new(source_of(at).into(), length).unwrap_or_default();
        IpNet::V4(network.trunc())
    };
    let mut sources: Vec<IpNet> = (0..size).map(prefix).collect();
    sources.sort();
    sources.dedup();
    AccessRule {
        name: "many".into(),
        action: AccessAction::Deny,
        protocol: None,
        ports: Vec::new(),
        sources,
        expiring: Vec::new(),
    }
}

/// Knuth's multiplicative hash, outside of class E.
fn source_of(at: u32) -> u32 {
    let address = at.wrapping_add(1).wrapping_mul(2_654_435_761);
    if address >> 28 == 15 { address ^ 0x8000_0000 } else { address }
}

fn frame(source: u32) -> Vec<u8> {
    let source = IpAddr::V4(Ipv4Addr::from_bits(source));
    Build::udp(&format!("{source}:40000"), "192.0.2.1:9").frame()
}
