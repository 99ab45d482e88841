//! What one source may send, as the program is told.

use aya::Ebpf;
use gateway_ebpf::abi::limit::{self, Limits, Rate};

use super::XdpError;
use super::batch::Table;
use crate::config::model::{PacketRate, XdpLimits};

/// The limits in the kernel. How many sources it remembers was set when the object was loaded.
pub(super) struct Limiter {
    limits: Table<u32, Limits>,
    sources: u32,
}

impl Limiter {
    pub fn new(ebpf: &mut Ebpf, limits: &XdpLimits) -> Result<Limiter, XdpError> {
        let limiter = Limiter { limits: super::tables::of_object(ebpf, limit::LIMITS)?, sources: limits.sources };
        limiter.set(limits)?;
        Ok(limiter)
    }

    /// Limits packets from now on. Sources keep what they have left.
    pub fn set(&self, limits: &XdpLimits) -> Result<(), XdpError> {
        if limits.sources != self.sources {
            ::log::warn!("xdp.limits.sources: the size of the table changes with the next start, not with a reload");
        }
        let set = self.limits.update(&[0], &[as_in_the_kernel(limits)]);
        set.map_err(|error| XdpError::map("take the limits", &error))
    }
}

fn as_in_the_kernel(limits: &XdpLimits) -> Limits {
    let rate = |rate: Option<PacketRate>| rate.map_or(Rate::default(), |rate| Rate::new(rate.per_second, rate.burst));
    let (mask_v4, mask_v6) = (mask(limits.prefix_v4, 32), mask(limits.prefix_v6, 128));
    Limits {
        syn: rate(limits.syn),
        packets: rate(limits.packets),
        mask_v4: (mask_v4 as u32).to_be_bytes(),
        mask_v6: mask_v6.to_be_bytes(),
        on: u32::from(limits.syn.is_some() || limits.packets.is_some()),
        dry_run: u32::from(limits.dry_run),
        unused: 0,
    }
}

/// `length` ones at the top of `bits` bits.
fn mask(length: u8, bits: u8) -> u128 {
    let ones = u128::MAX.checked_shr((128 - length).into()).unwrap_or(0);
    ones << (bits - length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_the_bits_of_their_prefix() {
        let cases = [
            (32, 128, [255; 4], [255; 16]),
            (24, 64, [255, 255, 255, 0], [255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]),
            (9, 1, [255, 128, 0, 0], [128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        for (prefix_v4, prefix_v6, mask_v4, mask_v6) in cases {
            let limits = as_in_the_kernel(&XdpLimits { prefix_v4, prefix_v6, ..XdpLimits::default() });
            assert_eq!(
                (limits.mask_v4, limits.mask_v6, limits.on),
                (mask_v4, mask_v6, 0),
                "/{prefix_v4} and /{prefix_v6}"
            );
        }
    }
}
