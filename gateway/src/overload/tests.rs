use std::time::Duration;

use super::*;
use crate::config::model::MaxMemory;

const TARGET: Duration = Duration::from_millis(100);

fn guard() -> (Arc<Pressure>, Guard) {
    let pressure = Arc::new(Pressure::new(1));
    let guard = Guard::new(pressure.clone(), 0);
    let settings = Overload { max_memory: MaxMemory::Off, queue_delay: Some(TARGET), max_connections: Some(7) };
    guard.configure(&settings);
    (pressure, guard)
}

#[test]
fn memory_takes_effect_with_the_next_beat_and_one_step_after_the_other() {
    let (pressure, guard) = guard();
    let cases = [
        // percent of the memory, whether that is a higher step, whether a connection is admitted, a request's fate
        (50, None, true, Fate::Served),
        (86, Some(Step::Idle), true, Fate::Served),
        (92, Some(Step::Connections), false, Fate::Served),
        (96, Some(Step::Requests), false, Fate::UnlessHigh),
        (100, Some(Step::Everything), false, Fate::Refused),
        (94, None, false, Fate::UnlessHigh),
        (87, None, false, Fate::Served),
        (82, None, true, Fate::Served),
        (70, None, true, Fate::Served),
    ];
    for (percent, higher, admits, fate) in cases {
        pressure.observe_memory(percent, Some(100));
        assert_eq!(guard.beat(percent, 0), higher, "{percent}%");
        assert_eq!(guard.admits(percent, 255, || 0), admits, "{percent}%");
        assert_eq!(guard.fate(|| 255), fate, "{percent}%");
    }
    pressure.observe_memory(100, None);
    assert_eq!(guard.beat(0, 0), None);
    assert_eq!((guard.load(), pressure.memory()), (Load::default(), (100, None)));
}

#[test]
fn a_late_loop_refuses_a_share_and_recovers() {
    let (pressure, guard) = guard();
    let mut now = 0;
    let mut beats = |count: u32, delay_us: u64| {
        for _ in 0..count {
            now += 20;
            guard.beat(now, delay_us);
        }
        pressure.workers()[0].refused_percent()
    };
    assert_eq!(beats(50, 99_000), 0);
    assert_eq!(beats(6, 250_000), 0, "one interval is not enough");
    let refused = beats(6, 250_000);
    assert!(refused > 0, "{refused}%");
    assert_eq!(beats(100, 250_000), 100);
    assert_eq!(guard.fate(|| 0), Fate::Refused);
    assert!(!guard.admits(now, 0, || 0), "what is closed must not come back at once");
    guard.count_shed();
    assert_eq!(pressure.workers()[0].shed_for_delay.get(), 1);
    assert_eq!(beats(55, 0), 0, "after little more than a second");
    assert_eq!(guard.fate(|| 0), Fate::Served);
}

#[test]
fn connections_that_have_waited_too_long_are_refused_while_all_of_them_wait() {
    let (_, guard) = guard();
    let accept = |now: u64, delay_us: u64| {
        guard.beat(now, 0);
        guard.admits(now, 0, || delay_us)
    };
    for now in (0..200).step_by(20) {
        assert!(accept(now, 300_000), "a burst at {now}");
    }
    assert!(!accept(220, 300_000));
    assert!(accept(221, 90_000), "this one's client still waits");
    assert!((222..230).all(|now| accept(now, 110_000) == (now > 1_000)));
    assert!(accept(10_000, 1_000));
    (10_020..10_300).step_by(20).for_each(|now| _ = accept(now, 1_000));
    assert!(accept(10_320, 300_000), "all others got through");
}

#[test]
fn a_connection_is_looked_at_once_in_a_beat_while_none_waits() {
    let (_, guard) = guard();
    let looked = Cell::new(0);
    let look = || {
        looked.set(looked.get() + 1);
        0
    };
    guard.beat(0, 0);
    (0..100).for_each(|n| assert!(guard.admits(n, n, look)));
    assert_eq!(looked.get(), 1);
}

#[test]
fn nothing_is_refused_for_delay_when_that_is_off() {
    let (_, guard) = guard();
    guard.configure(&Overload { queue_delay: None, max_connections: None, ..Overload::default() });
    (0..100).for_each(|n| _ = guard.beat(n * 20, 10_000_000));
    assert_eq!((guard.load(), guard.connections().1), (Load::default(), u32::MAX));
    assert!(guard.admits(2_000, 0, || 10_000_000));
}
