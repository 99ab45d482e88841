use proptest::prelude::*;

use super::*;

const DAY_S: u64 = 24 * 60 * 60;

const TITLE: &str = "gateway ticket keys 1";

fn secret(byte: u8) -> Secret {
    Secret::new([byte; 32])
}

fn ticketer(keys: &TicketKeys, now_s: u64) -> Arc<Tickets> {
    Tickets::new(keys.ring(now_s))
}

fn seal(keys: &TicketKeys, now_s: u64) -> Vec<u8> {
    ticketer(keys, now_s).encrypt(b"session").unwrap()
}

fn opens(keys: &TicketKeys, now_s: u64, ticket: &[u8]) -> bool {
    ticketer(keys, now_s).decrypt(ticket).is_some_and(|session| session == b"session")
}

fn copy(keys: &TicketKeys) -> TicketKeys {
    TicketKeys::decode(&keys.encode()).unwrap()
}

#[test]
fn a_ticket_is_opened_by_whoever_has_the_same_keys() {
    let keys = TicketKeys::new(secret(1), 1000);
    let ticket = seal(&keys, 1000);
    assert!(opens(&keys, 1000, &ticket));
    assert!(opens(&copy(&keys), 1000, &ticket), "another box");
    assert!(!opens(&TicketKeys::new(secret(2), 1000), 1000, &ticket), "another key");
    let none = Tickets::default();
    assert_eq!((none.encrypt(b"session"), none.decrypt(&ticket)), (None, None));
}

#[test]
fn keys_that_change_are_in_force_at_once_and_those_before_are_gone() {
    let (old, new) = (TicketKeys::new(secret(1), 0), TicketKeys::new(secret(2), 0));
    let tickets = ticketer(&old, 0);
    let ticket = tickets.encrypt(b"session").unwrap();
    let ring = Arc::downgrade(&tickets.ring());
    tickets.set(new.ring(0));
    assert_eq!(tickets.decrypt(&ticket), None);
    assert!(opens(&new, 0, &tickets.encrypt(b"session").unwrap()));
    assert!(ring.upgrade().is_none(), "nobody keeps it");
}

#[test]
fn two_tickets_of_one_session_share_nothing_but_the_name_of_the_key() {
    let keys = TicketKeys::new(secret(1), 0);
    let (one, other) = (seal(&keys, 0), seal(&keys, 0));
    assert_eq!(one[..NAME_LEN], other[..NAME_LEN]);
    assert_ne!(one[NAME_LEN..HEAD_LEN], other[NAME_LEN..HEAD_LEN]);
    assert_ne!(one[HEAD_LEN..], other[HEAD_LEN..]);
    assert!(!one.windows(7).any(|window| window == b"session"));
    assert_eq!(one.len(), HEAD_LEN + b"session".len() + TAG_LEN);
}

#[test]
fn a_ticket_can_be_used_for_its_lifetime_and_no_key_is_kept_for_more_than_twice_as_long() {
    let mut keys = TicketKeys::new(secret(1), 0);
    let mut sealed: Vec<(u64, Vec<u8>)> = Vec::new();
    for now_s in (0..3 * DAY_S).step_by(600) {
        keys.keep_time(now_s);
        if keys.want_next(now_s) {
            keys.append(secret((now_s / SEALS_S) as u8 + 2));
        }
        sealed.push((now_s, seal(&keys, now_s)));
        for (at_s, ticket) in &sealed {
            let age_s = now_s - at_s;
            match opens(&keys, now_s, ticket) {
                true => assert!(age_s < SEALS_S + LIFETIME_S, "{age_s} s old"),
                false => assert!(age_s >= LIFETIME_S, "{age_s} s old"),
            }
        }
        sealed.retain(|(at_s, _)| now_s - at_s <= SEALS_S + LIFETIME_S);
        assert!(keys.encode().split(|byte| *byte == b'\n').count() <= 5);
    }
}

#[test]
fn boxes_whose_clocks_differ_open_each_others_tickets() {
    let mut keys = TicketKeys::new(secret(1), 0);
    keys.append(secret(2));
    let other = copy(&keys);
    for (early_s, late_s) in [(SEALS_S - 60, SEALS_S + 60), (0, SEALS_S), (SEALS_S - 1, SEALS_S)] {
        assert!(opens(&keys, early_s, &seal(&other, late_s)));
        assert!(opens(&other, late_s, &seal(&keys, early_s)));
    }
}

#[test]
fn boxes_that_are_cut_off_come_to_the_same_keys_and_go_on_from_them_together() {
    let mut one = TicketKeys::new(secret(1), 0);
    let mut other = copy(&one);
    for now_s in (0..2 * DAY_S).step_by(3600) {
        one.keep_time(now_s);
        // This one looks at the clock less often.
        if now_s % (4 * 3600) == 0 {
            other.keep_time(now_s);
            assert!(opens(&other, now_s, &seal(&one, now_s)));
        }
    }
    assert!(one.want_next(2 * DAY_S - 1));
    let before = seal(&one, 2 * DAY_S);
    one.append(secret(9));
    other.adopt(copy(&one), 2 * DAY_S);
    assert!(one == other);
    assert!(opens(&other, 2 * DAY_S, &before));
}

#[test]
fn a_key_does_not_tell_the_one_before() {
    let mut keys = TicketKeys::new(secret(1), 0);
    keys.keep_time(SEALS_S);
    let written = String::from_utf8(keys.encode().to_vec()).unwrap();
    let secrets: Vec<&str> = written.lines().skip(1).map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(secrets.len(), 2);
    assert_ne!(secrets[0], secrets[1]);
}

#[test]
fn who_joins_a_fleet_still_opens_what_it_sealed_alone() {
    let fleet = TicketKeys::new(secret(1), 100);
    let mut own = TicketKeys::new(secret(2), 200);
    let alone = seal(&own, 200);
    own.adopt(copy(&fleet), 200);
    assert!(own == fleet);
    assert!(opens(&own, 300, &alone));
    assert!(opens(&fleet, 300, &seal(&own, 300)), "it seals as the fleet does");
    own.keep_time(200 + SEALS_S + LIFETIME_S);
    assert!(!opens(&own, 200 + SEALS_S + LIFETIME_S, &alone));
}

#[test]
fn however_often_the_fleet_changes_its_mind_keys_do_not_pile_up() {
    let mut own = TicketKeys::new(secret(0), 0);
    for byte in 1..100 {
        own.adopt(TicketKeys::new(secret(byte), 0), 0);
    }
    assert!(own.ring(0).open.len() <= 9);
    assert!(own.ring(0).open.iter().any(|key| key.name == own.ring(0).seals.unwrap().name));
}

#[test]
fn keys_of_a_time_that_has_not_come_are_given_up_like_others() {
    let mut own = TicketKeys::new(secret(1), 100 * DAY_S);
    let ticket = seal(&own, 0);
    assert_eq!((own.are_ahead(0), own.ahead_s(0)), (true, 100 * DAY_S));
    own.adopt(TicketKeys::new(secret(2), 0), 0);
    assert!(!own.are_ahead(0));
    for (now_s, is_open) in [(0, true), (SEALS_S + LIFETIME_S - 1, true), (SEALS_S + LIFETIME_S, false)] {
        own.keep_time(now_s);
        assert_eq!(opens(&own, now_s, &ticket), is_open, "{now_s}");
    }
}

#[test]
fn a_clock_that_jumps_costs_nothing_but_the_old_tickets() {
    let mut keys = TicketKeys::new(secret(1), 0);
    keys.keep_time(1_800_000_000);
    assert!(opens(&keys, 1_800_000_000, &seal(&keys, 1_800_000_000)));
    assert!(!keys.want_next(1_800_000_000));
    assert!(!keys.are_ahead(1_800_000_000));
    assert!(keys.are_ahead(1_700_000_000));
    assert!(opens(&keys, 0, &seal(&keys, 0)), "its key seals all the same");
    keys.keep_time(u64::MAX);
}

#[test]
fn what_was_written_is_read_again_and_nothing_else_is() {
    let mut keys = TicketKeys::new(secret(1), 1000);
    keys.append(secret(2));
    let written = String::from_utf8(keys.encode().to_vec()).unwrap();
    assert!(copy(&keys) == keys);
    let (first, second) = (written.lines().nth(1).unwrap(), written.lines().nth(2).unwrap());
    let nine: String = (0..9).map(|from| format!("{from} {}\n", &first[5..])).collect();
    let bad = [
        String::new(),
        TITLE.to_owned(),
        written.replace(" 1\n", " 2\n"),
        written.replace("01", "0x"),
        written.replace("1000 ", "1000"),
        written.replace("1000 ", "-1 "),
        format!("{TITLE}\n{second}\n{first}\n"),
        format!("{TITLE}\n{first}\n{first}\n"),
        format!("{TITLE}\n{}\n", &first[..first.len() - 2]),
        format!("{TITLE}\n{nine}"),
    ];
    for text in bad {
        assert_eq!(TicketKeys::decode(text.as_bytes()), Err(DecodeError), "{text:?}");
    }
    assert_eq!(TicketKeys::decode(b"\xff"), Err(DecodeError));
}

#[test]
fn a_cipher_says_nothing_of_its_keys() {
    let keys = TicketKeys::new(secret(0xab), 5);
    let ticketer = ticketer(&keys, 5);
    assert_eq!(format!("{keys:?} {ticketer:?}"), "[5] Tickets { .. }");
    assert_eq!((ticketer.enabled(), u64::from(ticketer.lifetime())), (true, LIFETIME_S));
}

proptest! {
    #[test]
    fn garbage_opens_nothing(ticket in proptest::collection::vec(any::<u8>(), 0..300), named: bool) {
        let keys = TicketKeys::new(secret(1), 0);
        let mut ticket = ticket;
        if named {
            ticket.splice(..0, keys.ring(0).open[0].name);
        }
        prop_assert_eq!(ticketer(&keys, 0).decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_that_was_changed_or_cut_opens_nothing(
        session in proptest::collection::vec(any::<u8>(), 0..300), at: prop::sample::Index, bit in 0..8u8,
    ) {
        let keys = TicketKeys::new(secret(1), 0);
        let ticketer = ticketer(&keys, 0);
        let ticket = ticketer.encrypt(&session).unwrap();
        let opened = ticketer.decrypt(&ticket);
        prop_assert_eq!(opened.as_deref(), Some(&session[..]));
        let at = at.index(ticket.len());
        prop_assert_eq!(ticketer.decrypt(&ticket[..at]), None);
        let mut changed = ticket.clone();
        changed[at] ^= 1 << bit;
        prop_assert_eq!(ticketer.decrypt(&changed), None);
        let longer = [&ticket[..], &[0]].concat();
        prop_assert_eq!(ticketer.decrypt(&longer), None);
    }

    #[test]
    fn nothing_that_is_read_as_keys_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = TicketKeys::decode(&bytes);
        let mut titled = format!("{TITLE}\n").into_bytes();
        titled.extend(bytes);
        let _ = TicketKeys::decode(&titled);
    }
}
