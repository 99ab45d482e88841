//! Looks at the process's memory, tells the workers, and writes to the log when something changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::shared::Shared;
use crate::config::model::MaxMemory;
use crate::metrics::render::OverloadCounts;
use crate::overload::memory::Step;
use crate::overload::{Found, Pressure};

/// How often. Memory that fills at 1 GB/s goes 100 MB beyond a mark meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// So many looks make a second: the log has at most one line about each thing in it.
const LOOKS_IN_SECOND: u32 = 10;

/// The share of the machine's memory, or the control group's, that is `max_memory` when the file does not say: the kernel
/// kills the process at all of it, and what sockets hold in the kernel counts there too.
const AUTO_PERCENT: u64 = 90;

/// Looks at the memory for as long as the process lives.
pub(super) async fn watch(shared: Arc<Shared>) {
    let auto = available().map(|bytes| bytes / 100 * AUTO_PERCENT);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told, mut is_told) = (Step::Nothing, false);
    for count in (1..=LOOKS_IN_SECOND).cycle() {
        look.tick().await;
        let pressure = &shared.pressure;
        let asked = shared.lock().current.as_ref().map(|current| current.config.overload.max_memory);
        let max = match asked {
            Some(MaxMemory::Bytes(bytes)) => Some(bytes),
            Some(MaxMemory::Auto) => auto,
            Some(MaxMemory::Off) | None => None,
        };
        if let Some(used) = resident() {
            pressure.observe_memory(used, max);
        }
        if count == LOOKS_IN_SECOND {
            tell_memory(pressure, &mut told);
            tell_delay(pressure, &mut is_told);
        }
    }
}

fn tell_memory(pressure: &Pressure, told: &mut Step) {
    let (step, (used, max)) = (pressure.step(), pressure.memory());
    if step == *told {
        return;
    }
    let mib = |bytes: u64| bytes >> 20;
    let (used, max) = (mib(used), max.map_or_else(|| "no limit".to_owned(), |max| format!("{} MiB", mib(max))));
    match step {
        Step::Nothing => log::info!("overload: {used} MiB of memory in use of {max}; nothing is given up any more"),
        _ => log::warn!("overload: {used} MiB of memory in use of {max}; given up: {}", step.as_str()),
    }
    *told = step;
}

fn tell_delay(pressure: &Pressure, is_told: &mut bool) {
    let workers = pressure.workers();
    let late = workers.iter().filter(|worker| worker.is_late()).count();
    if (late > 0) == *is_told {
        return;
    }
    *is_told = late > 0;
    if late == 0 {
        return log::info!("overload: no worker is late any more; nothing is refused for that");
    }
    let ms = |delay: fn(&Found) -> u64| workers.iter().map(delay).max().unwrap_or(0) / 1_000;
    log::warn!(
        "overload: {late} of {} workers are late and refuse some of what comes; work waits for {} ms, connections wait \
         for {} ms to be accepted",
        workers.len(),
        ms(Found::delay_us),
        ms(Found::accept_delay_us),
    );
}

/// For the metrics page.
pub(super) fn counts(pressure: &Pressure) -> OverloadCounts {
    let workers = pressure.workers();
    let sum = |count: fn(&Found) -> u64| workers.iter().map(count).sum();
    OverloadCounts {
        memory: pressure.memory(),
        actions: actions(pressure).collect(),
        delays_us: workers.iter().map(|worker| [worker.delay_us(), worker.accept_delay_us()]).collect(),
        refused_percent: workers.iter().map(Found::refused_percent).collect(),
        shed: vec![
            ("memory", sum(|worker| worker.shed_for_memory.get())),
            ("delay", sum(|worker| worker.shed_for_delay.get())),
        ],
    }
}

/// What may be given up for want of memory, and whether it is.
fn actions(pressure: &Pressure) -> impl Iterator<Item = (&'static str, bool)> {
    let step = pressure.step();
    Step::ALL.into_iter().skip(1).map(move |action| (action.as_str(), action <= step))
}

/// For the admin endpoint.
pub(super) fn view(pressure: &Pressure) -> String {
    let (used, max) = pressure.memory();
    let given_up: Vec<_> = actions(pressure).filter(|(_, is_on)| *is_on).map(|(action, _)| action).collect();
    let workers = pressure.workers().iter().map(|worker| {
        json!({
            "delay_ms": worker.delay_us() / 1_000,
            "accept_delay_ms": worker.accept_delay_us() / 1_000,
            "refused_percent": worker.refused_percent(),
            "requests_shed": { "memory": worker.shed_for_memory.get(), "delay": worker.shed_for_delay.get() },
        })
    });
    let view = json!({
        "memory": { "used_bytes": used, "max_bytes": max, "given_up": given_up },
        "connections": pressure.connections.load(std::sync::atomic::Ordering::Relaxed),
        "workers": workers.collect::<Vec<_>>(),
    });
    format!("{view:#}\n")
}

/// The process's resident memory (proc_pid_statm(5)).
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    // SAFETY: takes a number and gives one.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * page)
}

/// What the process may have at most: the least of what its control groups (v2) allow, and the machine has.
fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    let group = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let path = Path::new(unified(&text)?.trim_start_matches('/'));
        path.ancestors().filter_map(group_max).min()
    });
    machine.into_iter().chain(group).min()
}

/// What a control group may have; `None` is as much as those above it.
fn group_max(group: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(group).join("memory.max")).ok()?;
    text.trim().parse().ok()
}

/// The path of the process's control group in the unified hierarchy (cgroups(7)).
fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

fn mem_total(text: &str) -> Option<u64> {
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    Some(kib.trim_end().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(mem_total("MemTotal:       24689004 kB\nMemFree: 1 kB\n"), Some(24_689_004 << 10));
        assert_eq!(mem_total("MemFree: 1 kB\n"), None);
        assert_eq!(
            unified("1:name=systemd:/a\n0::/system.slice/gateway.service\n"),
            Some("/system.slice/gateway.service")
        );
        assert_eq!(unified("1:memory:/a\n"), None);
    }

    #[test]
    fn the_process_has_memory_and_may_have_more() {
        let (used, available) = (resident().unwrap(), available().unwrap());
        assert!((1 << 20..available).contains(&used), "{used} of {available}");
    }

    #[test]
    fn the_view_says_what_is_given_up() {
        let pressure = Pressure::new(2);
        pressure.observe_memory(92, Some(100));
        let view: serde_json::Value = serde_json::from_str(&view(&pressure)).unwrap();
        assert_eq!(
            view["memory"],
            json!({ "used_bytes": 92, "max_bytes": 100, "given_up": ["idle_connections", "connections"] })
        );
        assert_eq!(view["workers"].as_array().unwrap().len(), 2);
        let counts = counts(&pressure);
        assert_eq!(counts.actions.iter().filter(|(_, is_on)| *is_on).count(), 2);
        assert_eq!((counts.memory, counts.shed), ((92, Some(100)), vec![("memory", 0), ("delay", 0)]));
    }
}
