//! Sealing and opening a session ticket, beside rustls's own ticketer.

use std::sync::Arc;

use divan::{Bencher, black_box};
use gateway::snapshot::{Secret, TicketKeys, Tickets};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

fn main() {
    divan::main();
}

/// About as long as a session of TLS 1.3 is without a client's certificate.
const SESSION: [u8; 120] = [7; 120];

#[derive(Clone, Copy, Debug)]
enum Which {
    Ours,
    Rustls,
}

const BOTH: [Which; 2] = [Which::Ours, Which::Rustls];

fn ticketer(which: Which) -> Arc<dyn ProducesTickets> {
    match which {
        Which::Ours => Tickets::new(TicketKeys::new(Secret::new([7; 32]), 0).ring(0)),
        Which::Rustls => Ticketer::new().expect("random numbers"),
    }
}

#[divan::bench(args = BOTH)]
fn seal(bencher: Bencher<'_, '_>, which: Which) {
    let ticketer = ticketer(which);
    bencher.bench_local(|| ticketer.encrypt(black_box(&SESSION)));
}

#[divan::bench(args = BOTH)]
fn open(bencher: Bencher<'_, '_>, which: Which) {
    let ticketer = ticketer(which);
    let ticket = ticketer.encrypt(&SESSION).expect("a ticket");
    bencher.bench_local(|| ticketer.decrypt(black_box(&ticket)));
}

/// A ticket of a key that is not known any more.
#[divan::bench(args = BOTH)]
fn refuse(bencher: Bencher<'_, '_>, which: Which) {
    let ticketer = ticketer(which);
    let mut ticket = ticketer.encrypt(&SESSION).expect("a ticket");
    ticket[0] ^= 1;
    bencher.bench_local(|| ticketer.decrypt(black_box(&ticket)));
}
