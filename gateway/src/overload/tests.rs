use super::*;
use crate::config::model::MaxMemory;

const TARGET: Duration = Duration::from_millis(100);

fn guard() -> (Arc<Pressure>, Guard) {
    let pressure = Arc::new(Pressure::new(1));
    let guard = Guard::new(pressure.clone(), 0);
    let settings = Overload {
        max_memory: MaxMemory::Off,
        queue_delay: Some(TARGET),
        accept_delay: Some(TARGET),
        max_connections: Some(7),
    };
    guard.configure(&settings);
    (pressure, guard)
}

#[test]
fn memory_takes_effect_with_the_next_beat_and_one_step_after_the_other() {
    let (pressure, guard) = guard();
    let cases = [
        // percent of the memory, whether memory is given back, whether a connection is admitted, a request's fate
        (50, false, true, Fate::Served),
        (86, true, true, Fate::Served),
        (92, true, false, Fate::Served),
        (96, true, false, Fate::UnlessHigh),
        (100, true, false, Fate::Refused),
        (94, false, false, Fate::UnlessHigh),
        (87, false, false, Fate::Served),
        (82, false, true, Fate::Served),
        (70, false, true, Fate::Served),
    ];
    for (percent, gives_back, admits, fate) in cases {
        pressure.observe_memory(percent, Some(100));
        assert_eq!(guard.beat(percent, 0), gives_back, "{percent}%");
        assert_eq!(!guard.is_closed(255, true), admits, "{percent}%");
        assert_eq!(guard.fate(|| 255), fate, "{percent}%");
    }
    pressure.observe_memory(100, None);
    assert!(!guard.beat(0, 0));
    assert_eq!((guard.load(), pressure.memory()), (Load::default(), (100, None)));
}

#[test]
fn memory_is_given_back_with_each_higher_step_and_once_a_second_while_there_is_one() {
    let (pressure, guard) = guard();
    let cases = [
        // milliseconds, percent of the memory, whether memory is given back
        (10_000, 84, false),
        (10_020, 86, true),
        (10_040, 91, true),
        (10_060, 91, false),
        (11_020, 91, false),
        (11_040, 91, true),
        (11_060, 83, false),
        (12_040, 83, true),
        (14_000, 79, false),
        (14_020, 85, true),
    ];
    for (now_ms, percent, gives_back) in cases {
        pressure.observe_memory(percent, Some(100));
        assert_eq!(guard.beat(now_ms, 0), gives_back, "at {now_ms}");
    }
}

#[test]
fn a_late_loop_refuses_a_share_and_recovers() {
    let (pressure, guard) = guard();
    let now = Cell::new(0);
    let beats = |count: u32, delay_us: u64| {
        for _ in 0..count {
            now.set(now.get() + 20);
            guard.beat(now.get(), delay_us);
        }
        pressure.workers()[0].refused_percent()
    };
    assert_eq!(beats(50, 99_000), 0);
    assert_eq!(beats(6, 250_000), 0, "one interval is not enough");
    let refused = beats(6, 250_000);
    assert!(refused > 0, "{refused}%");
    assert_eq!(beats(100, 250_000), 100);
    assert_eq!(guard.fate(|| 0), Fate::Refused);
    assert!(guard.is_closed(0, true), "what is closed must not come back at once");
    guard.count_shed();
    assert_eq!(pressure.workers()[0].shed_for_delay.get(), 1);
    assert_eq!(beats(55, 0), 0, "after little more than a second");
    assert_eq!(guard.fate(|| 0), Fate::Served);
}

#[test]
fn connections_that_may_bring_what_is_refused_last_are_refused_as_that_is() {
    let (pressure, guard) = guard();
    let mut now = 0;
    while pressure.workers()[0].refused_percent() < 100 {
        now += 20;
        guard.beat(now, 150_000);
    }
    assert!(guard.is_closed(0, false) && !guard.is_closed(0, true));
    pressure.observe_memory(90, Some(100));
    guard.beat(now, 0);
    assert!(guard.is_closed(255, true), "memory makes no difference");
}

#[test]
fn connections_that_have_waited_too_long_are_refused_while_all_of_them_wait() {
    let (_, guard) = guard();
    let (mut gate, mut quiet) = (Gate::default(), Gate::default());
    let mut accept = |now: u64, delay_us: u64| {
        guard.beat(now, 0);
        assert!(quiet.admits(&guard, now, 0, false, || 10), "another listener's");
        gate.admits(&guard, now, 0, false, || delay_us)
    };
    for now in (0..200).step_by(20) {
        assert!(accept(now, 300_000), "a burst at {now}");
    }
    assert!(!accept(220, 300_000));
    assert!(accept(221, 90_000), "this one's client still waits");
    assert!((222..230).all(|now| !accept(now, 110_000)));
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
    let mut gate = Gate::default();
    guard.beat(0, 0);
    (0..100).for_each(|n| assert!(gate.admits(&guard, n, n, false, look)));
    assert_eq!(looked.get(), 1);
}

#[test]
fn nothing_is_refused_for_delay_when_that_is_off() {
    let (_, guard) = guard();
    guard.configure(&Overload { queue_delay: None, accept_delay: None, max_connections: None, ..Overload::default() });
    let fresh = Guard::new(Arc::new(Pressure::new(1)), 0);
    (0..100).for_each(|n| _ = (guard.beat(n * 20, 10_000_000), fresh.beat(n * 20, 10_000_000)));
    assert_eq!(fresh.load(), Load::default(), "nobody has said yet what is too long");
    assert_eq!((guard.load(), guard.connections().1), (Load::default(), u32::MAX));
    let mut gate = Gate::default();
    (0..100).for_each(|n| assert!(gate.admits(&guard, n * 20, 0, false, || 10_000_000)));
}

#[test]
fn a_worker_that_has_all_it_can_do_is_not_one_that_collapses() {
    let guard = Guard::new(Arc::new(Pressure::new(1)), 0);
    guard.configure(&Overload::default());
    let mut gate = Gate::default();
    for now in (0..4_000).step_by(200) {
        guard.beat(now, 200_000);
        assert!(gate.admits(&guard, now, 0, false, || 210_000), "it waited for one turn, at {now}");
        assert_eq!(guard.fate(|| 0), Fate::Served, "at {now}");
    }
    (4_000..8_000).step_by(200).for_each(|now| _ = guard.beat(now, 1_500_000));
    assert_ne!(guard.fate(|| 0), Fate::Served);
}

/// Connections that are begun `per_second` at a time, for so many seconds, at a worker that needs `serve_us` for one that it
/// serves and `refuse_us` for one that it refuses. The clients wait for a second. Gives how many of them were served in
/// that time, and the longest that one of these waited, both from the second second on.
fn flood(guard: &Guard, gate: &mut Gate, per_second: u64, seconds: u64, serve_us: u64, refuse_us: u64) -> (u64, u64) {
    let (mut waiting, mut now, mut begun, mut next_beat) = (std::collections::VecDeque::new(), 0, 0, 0);
    let (mut served, mut longest) = (0, 0);
    let begins_at = |nth: u64| nth * 1_000_000 / per_second;
    while now < seconds * 1_000_000 {
        while begins_at(begun) <= now {
            if waiting.len() <= gate.backlog().get() as usize {
                waiting.push_back(begins_at(begun));
            }
            begun += 1;
        }
        if now >= next_beat {
            next_beat = now + 20_000;
            guard.beat(now / 1_000, 0);
        }
        let Some(since) = waiting.pop_front() else {
            now = begins_at(begun);
            continue;
        };
        let is_served = gate.admits(guard, now / 1_000, 0, false, || now - since);
        now += if is_served { serve_us } else { refuse_us };
        if is_served && now - since < 1_000_000 && now > 1_000_000 {
            served += 1;
            longest = longest.max(now - since);
        }
    }
    (served, longest)
}

#[test]
fn ten_times_the_connections_leave_nine_tenths_of_the_work_and_short_waits() {
    let cases = [
        // what serving and refusing one costs, in microseconds
        (430, 60),
        (700, 30),
        (100, 20),
        (30, 10),
        (2_000, 100),
    ];
    for (serve_us, refuse_us) in cases {
        let (_, guard) = guard();
        let most = 3 * 1_000_000 / serve_us;
        let (served, longest) = flood(&guard, &mut Gate::default(), 10 * 1_000_000 / serve_us, 4, serve_us, refuse_us);
        assert!(served * 10 >= most * 9, "{serve_us} µs: {served} of {most}");
        assert!(longest <= 100_000 + serve_us, "{serve_us} µs: {longest} µs");
    }
    let (_, off) = guard();
    off.configure(&Overload { queue_delay: None, accept_delay: None, ..Overload::default() });
    let (served, _) = flood(&off, &mut Gate::default(), 23_000, 4, 430, 60);
    assert!(served * 10 < 3 * 1_000_000 / 430, "without it all of them wait for longer than their clients: {served}");
}

#[test]
fn a_backlog_is_whole_again_when_nothing_comes_after_a_flood() {
    let (_, guard) = guard();
    let mut gate = Gate::default();
    flood(&guard, &mut gate, 23_000, 4, 430, 60);
    assert_ne!(gate.backlog(), Backlog::WHOLE);
    gate.expire(4_000 + delay::INTERVAL_MS);
    assert_ne!(gate.backlog(), Backlog::WHOLE, "another connection may be on its way");
    gate.expire(4_000 + delay::LASTS_MS + delay::INTERVAL_MS);
    assert_eq!(gate.backlog(), Backlog::WHOLE);
}

#[test]
fn a_load_that_can_be_served_is_and_a_burst_too() {
    let (_, guard) = guard();
    let mut gate = Gate::default();
    let (served, longest) = flood(&guard, &mut gate, 2_000, 4, 430, 60);
    assert!(served >= 3 * 2_000 - 10 && longest < 5_000, "{served}, {longest} µs");
    assert_eq!(gate.backlog(), Backlog::WHOLE);
}
