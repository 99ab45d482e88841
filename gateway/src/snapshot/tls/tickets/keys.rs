//! Which ticket keys there are, and when each of them seals. Boxes that hold the same keys agree on both as far as their
//! clocks do, and a clock that is off by less than a key's time costs nothing: the key before and the one after open too.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::{Key, LIFETIME_S, NAME_LEN, Ring, SEALS_S};

/// What a key is made from. Every byte is random.
pub type Secret = Zeroizing<[u8; SECRET_LEN]>;

const SECRET_LEN: usize = 32;

/// Keys that are written one after the other into a store: far more than the three there are while all goes well.
const LINE_MAX: usize = 8;

/// Keys beside the line that still open. Each change of the fleet's mind leaves a few.
const OTHERS_MAX: usize = 8;

/// After a longer time without a look at the clock the line begins anew: no ticket is that old.
const STEPS_MAX: u64 = 28;

/// First line of keys that are written down.
const TITLE: &str = "gateway ticket keys 1";

/// Keys, and when each of them seals.
pub struct TicketKeys {
    /// In the order of their times; never empty. Each seals until the next one does.
    line: Vec<TicketKey>,
    /// Of a line that was given up, with the time until which it opens.
    others: Vec<(TicketKey, u64)>,
}

struct TicketKey {
    secret: Secret,
    /// Unix time from which it seals, in seconds.
    from_s: u64,
    key: Arc<Key>,
}

/// What was to be ticket keys is something else.
#[derive(Debug, PartialEq, Eq)]
pub struct DecodeError;

impl TicketKeys {
    /// One key, which seals from now on.
    pub fn new(secret: Secret, now_s: u64) -> TicketKeys {
        TicketKeys { line: vec![TicketKey::new(secret, now_s)], others: Vec::new() }
    }

    /// Whether it is time to [`append`](TicketKeys::append) the next key, which is well before it seals: until then it has
    /// to be everywhere.
    pub fn want_next(&self, now_s: u64) -> bool {
        now_s >= self.last().from_s.saturating_add(SEALS_S / 2)
    }

    /// Adds a key that seals when the time of the last one is over.
    pub fn append(&mut self, secret: Secret) {
        let from_s = self.last().from_s.saturating_add(SEALS_S);
        self.line.push(TicketKey::new(secret, from_s));
    }

    /// Whether the last key's time is so far ahead that the clock must have been set back, or is not that of who made it.
    pub fn are_ahead(&self, now_s: u64) -> bool {
        self.ahead_s(now_s) > 2 * SEALS_S
    }

    /// How long it is until the time of the last key, in seconds.
    pub fn ahead_s(&self, now_s: u64) -> u64 {
        self.last().from_s.saturating_sub(now_s)
    }

    /// Forgets keys that are over. Where nobody has added the next one, it is derived from the last: boxes that cannot ask
    /// each other still come to the same, and who learns a key learns none of those before it.
    pub fn keep_time(&mut self, now_s: u64) {
        let late_s = now_s.saturating_sub(self.last().from_s);
        if late_s > STEPS_MAX * SEALS_S {
            self.line = vec![TicketKey::new(self.last().derive(b"next"), now_s)];
        }
        while now_s.saturating_sub(self.last().from_s) >= SEALS_S {
            let next = self.last().derive(b"next");
            self.append(next);
        }
        let over = self.line.windows(2).take_while(|pair| pair[1].from_s.saturating_add(LIFETIME_S) <= now_s).count();
        self.line.drain(..over);
        self.others.retain(|(_, until_s)| *until_s > now_s);
    }

    /// Takes over the line that the fleet has. What this box sealed before can still be opened, and for no longer than if the
    /// time of its last key had just begun.
    pub fn adopt(&mut self, shared: TicketKeys, now_s: u64) {
        let before = std::mem::replace(&mut self.line, shared.line);
        let ends: Vec<u64> = before.iter().skip(1).map(|next| next.from_s).collect();
        for (at, key) in before.into_iter().enumerate() {
            if !self.line.iter().any(|kept| kept.key.name == key.key.name) {
                let end_s = ends.get(at).copied().unwrap_or(key.from_s.saturating_add(SEALS_S));
                let end_s = end_s.min(now_s.saturating_add(SEALS_S));
                self.others.push((key, end_s.saturating_add(LIFETIME_S)));
            }
        }
        self.others.retain(|(key, _)| !self.line.iter().any(|kept| kept.key.name == key.key.name));
        let too_many = self.others.len().saturating_sub(OTHERS_MAX);
        self.others.drain(..too_many);
    }

    /// The ciphers for this moment.
    pub fn ring(&self, now_s: u64) -> Ring {
        let seals = self.line.iter().rfind(|key| key.from_s <= now_s).unwrap_or(&self.line[0]);
        let open = self.line.iter().chain(self.others.iter().map(|(key, _)| key));
        Ring { seals: Some(seals.key.clone()), open: open.map(|key| key.key.clone()).collect() }
    }

    /// The line in writing, for a store that others can read.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(TITLE.len() + 1 + self.line.len() * 96));
        out.extend_from_slice(TITLE.as_bytes());
        for TicketKey { secret, from_s, .. } in &self.line {
            let hex = Zeroizing::new(HEXLOWER.encode(&secret[..]));
            out.extend_from_slice(format!("\n{from_s} ").as_bytes());
            out.extend_from_slice(hex.as_bytes());
        }
        out.push(b'\n');
        out
    }

    /// What [`encode`](TicketKeys::encode) has written.
    pub fn decode(bytes: &[u8]) -> Result<TicketKeys, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError)?;
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(DecodeError);
        }
        let line: Vec<TicketKey> = lines.take(LINE_MAX + 1).map(decode_key).collect::<Result<_, _>>()?;
        let in_order = line.windows(2).all(|pair| pair[0].from_s < pair[1].from_s);
        match in_order && (1..=LINE_MAX).contains(&line.len()) {
            true => Ok(TicketKeys { line, others: Vec::new() }),
            false => Err(DecodeError),
        }
    }

    fn last(&self) -> &TicketKey {
        &self.line[self.line.len() - 1]
    }
}

impl PartialEq for TicketKeys {
    /// Whether the line is the same. Names are no secrets, so time does not matter.
    fn eq(&self, other: &TicketKeys) -> bool {
        let line = |keys: &TicketKeys| -> Vec<_> { keys.line.iter().map(|key| (key.from_s, key.key.name)).collect() };
        line(self) == line(other)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.line.iter().map(|key| key.from_s)).finish()
    }
}

fn decode_key(line: &str) -> Result<TicketKey, DecodeError> {
    let (from, hex) = line.split_once(' ').ok_or(DecodeError)?;
    let bytes = Zeroizing::new(HEXLOWER.decode(hex.as_bytes()).map_err(|_| DecodeError)?);
    let mut secret = Secret::default();
    if bytes.len() != SECRET_LEN {
        return Err(DecodeError);
    }
    secret.copy_from_slice(&bytes);
    Ok(TicketKey::new(secret, from.parse().map_err(|_| DecodeError)?))
}

impl TicketKey {
    fn new(secret: Secret, from_s: u64) -> TicketKey {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM_SIV, &derive(&secret, b"cipher")[..]);
        let mut name = [0; NAME_LEN];
        name.copy_from_slice(&derive(&secret, b"name")[..NAME_LEN]);
        let cipher = cipher.expect("the key of AES-256 has 32 bytes");
        TicketKey { secret, from_s, key: Arc::new(Key { name, cipher }) }
    }

    fn derive(&self, what: &[u8]) -> Secret {
        derive(&self.secret, what)
    }
}

/// HKDF-Expand (RFC 5869 §2.3); the secret is as random as what Extract would give.
fn derive(secret: &Secret, what: &[u8]) -> Secret {
    let mut out = Secret::default();
    let info = [b"gateway ticket key: ", what];
    let prk = Prk::new_less_safe(HKDF_SHA256, &secret[..]);
    let filled = prk.expand(&info, HKDF_SHA256).and_then(|okm| okm.fill(&mut out[..]));
    filled.expect("HKDF with SHA-256 gives 32 bytes");
    out
}
