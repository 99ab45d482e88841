//! Counters that each CPU has for itself.

use aya::Pod;
use aya::maps::{MapData, PerCpuArray, PerCpuValues};

use super::XdpError;

/// Adds up what the CPUs have counted; nothing for an index that nobody has.
pub(super) fn sum<T: Pod + Default>(
    map: &PerCpuArray<MapData, T>,
    index: u32,
    mut add: impl FnMut(&mut T, &T),
) -> Result<T, XdpError> {
    let mut total = T::default();
    if index < map.len() {
        let of_each_cpu = map.get(&index, 0).map_err(|error| XdpError::map("read the counters", &error))?;
        of_each_cpu.iter().for_each(|one| add(&mut total, one));
    }
    Ok(total)
}

/// Lets an index count from zero.
pub(super) fn reset<T: Pod + Default>(map: &mut PerCpuArray<MapData, T>, index: u32) -> Result<(), XdpError> {
    let failed = |error: &(dyn std::error::Error + 'static)| XdpError::map("reset a counter", error);
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| failed(&error))?;
    let zeros = PerCpuValues::try_from(vec![T::default(); cpus]).map_err(|error| failed(&error))?;
    map.set(index, zeros, 0).map_err(|error| failed(&error))
}
