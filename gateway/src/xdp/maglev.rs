//! The Maglev tables of services, as the program has them.

use std::io;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

use gateway_ebpf::abi::service::{self as abi, MAGLEV_SIZE};

use super::batch::{Kind, Table};
use super::convert;
use crate::balance::maglev::{self, Share};

/// Who gets new flows, and the slots they are in.
pub(super) type Shares = Vec<(Share, u32)>;

/// The tables in the order of `services`, made by all cores: one takes about a millisecond, and there may be hundreds.
pub(super) fn tables(services: &[(u32, Shares)]) -> io::Result<Vec<Table<u32, abi::Table>>> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let make = |part: &[(u32, Shares)]| part.iter().map(|(_, shares)| table(shares)).collect();
    thread::scope(|scope| {
        let parts = services.chunks(services.len().div_ceil(cores).max(1));
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || make(part))).collect();
        let made: io::Result<Vec<Vec<_>>> =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect();
        Ok(made?.into_iter().flatten().collect())
    })
}

fn table(shares: &Shares) -> io::Result<Table<u32, abi::Table>> {
    let alone: Vec<Share> = shares.iter().map(|(share, _)| *share).collect();
    let mut places = maglev::table(&alone, MAGLEV_SIZE);
    for place in &mut places {
        // Slots are below `NO_BACKEND`, as the ABI asserts.
        *place = shares.get(usize::from(*place)).map_or(abi::NO_BACKEND, |(_, slot)| *slot as u16);
    }
    let table = Table::create(Kind::Array, 1)?;
    table.update(&[0], &[convert::table(&places)])?;
    Ok(table)
}
