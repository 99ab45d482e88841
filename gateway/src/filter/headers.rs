//! Header edits of a route, and the fields the gateway adds by its own settings.

use std::time::Duration;

use crate::config::model::HeaderEdits;
use crate::proto::head::{Headers, Known, Version};

/// Does the edits: remove, then set, then add.
///
/// `config::check` has seen that the names may be edited: no framing or hop-by-hop field, and no `host`.
pub fn apply(edits: &HeaderEdits, headers: &mut Headers) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.set(name, value.as_bytes());
    }
    for (name, value) in &edits.add {
        headers.append(name, value.as_bytes());
    }
}

/// Adds the gateway to the `via` of a message that came in `received` (RFC 9110 §7.6.3), in either direction.
pub fn add_via(headers: &mut Headers, received: Version, pseudonym: &str, scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend_from_slice(match received {
        Version::Http10 => b"1.0 ",
        Version::Http11 => b"1.1 ",
        Version::Http2 => b"2 ",
    });
    scratch.extend_from_slice(pseudonym.as_bytes());
    headers.append(&Known::Via, scratch);
}

/// Tells the origin how long its answer is waited for, as Envoy does: milliseconds, and nothing when there is no limit.
pub fn set_expected_timeout(headers: &mut Headers, timeout: Option<Duration>) {
    match timeout {
        None => {
            headers.remove(&Known::XEnvoyExpectedRqTimeoutMs);
        }
        Some(timeout) => {
            let mut text = itoa::Buffer::new();
            headers.set(&Known::XEnvoyExpectedRqTimeoutMs, text.format(timeout.as_millis()).as_bytes());
        }
    }
}

const ATTEMPT_COUNT: &[u8] = b"x-envoy-attempt-count";

/// Says how often the request has been sent, in place of what others say of it.
pub fn set_attempt_count(headers: &mut Headers, attempts: u32) {
    headers.retain(|known, name, _| known != Known::Other || name != ATTEMPT_COUNT);
    headers.append_raw(ATTEMPT_COUNT, itoa::Buffer::new().format(attempts).as_bytes());
}

/// Timeouts that a request asks for. Each may also be `Some(None)`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedTimeouts {
    /// Of the request.
    pub whole: Option<Option<Duration>>,
    /// Of each try.
    pub each_try: Option<Option<Duration>>,
}

/// Takes the timeouts out of a request that Envoy's clients ask for, in milliseconds, 0 for none. For requests
/// of trusted proxies: nobody else's `x-envoy-` fields are still there.
pub fn take_timeouts(headers: &mut Headers) -> AskedTimeouts {
    let mut take = |name: Known| {
        let asked = headers.get(&name).and_then(|value| str::from_utf8(value).ok()?.parse().ok());
        if asked.is_some() {
            headers.remove(&name);
        }
        asked.map(|asked| Some(Duration::from_millis(asked)).filter(|asked| !asked.is_zero()))
    };
    AskedTimeouts {
        whole: take(Known::XEnvoyUpstreamRqTimeoutMs),
        each_try: take(Known::XEnvoyUpstreamRqPerTryTimeoutMs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::head::HeaderName;

    fn name(text: &str) -> HeaderName {
        HeaderName::new(text).unwrap()
    }

    fn lines(headers: &Headers) -> Vec<String> {
        headers
            .iter()
            .map(|(_, name, value)| format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
            .collect()
    }

    #[test]
    fn edits_remove_then_set_then_add() {
        let edits = HeaderEdits {
            remove: vec![name("x-gone"), name("x-back")],
            set: vec![(name("x-one"), "new".into()), (name("x-back"), "set".into())],
            add: vec![(name("x-one"), "second".into()), (name("cookie"), "b=2".into())],
        };
        let mut headers = Headers::default();
        for (name, value) in [("X-Gone", "1"), ("x-one", "a"), ("x-one", "b"), ("x-kept", "k"), ("Cookie", "a=1")] {
            headers.append_raw(name.as_bytes(), value.as_bytes());
        }
        apply(&edits, &mut headers);
        let expected = ["x-kept: k", "cookie: a=1", "x-one: new", "x-back: set", "x-one: second", "cookie: b=2"];
        assert_eq!(lines(&headers), expected);
    }

    #[test]
    fn via_names_the_version_the_message_came_in_and_follows_those_before() {
        let mut headers = Headers::default();
        headers.append_raw(b"via", b"1.0 fred");
        add_via(&mut headers, Version::Http11, "gw", &mut Vec::new());
        add_via(&mut headers, Version::Http2, "gw", &mut Vec::new());
        assert_eq!(lines(&headers), ["via: 1.0 fred", "via: 1.1 gw", "via: 2 gw"]);
    }

    #[test]
    fn the_expected_timeout_is_in_milliseconds_and_absent_without_a_limit() {
        let mut headers = Headers::default();
        headers.append_raw(b"x-envoy-expected-rq-timeout-ms", b"forged");
        set_expected_timeout(&mut headers, Some(Duration::from_secs(15)));
        assert_eq!(lines(&headers), ["x-envoy-expected-rq-timeout-ms: 15000"]);
        set_expected_timeout(&mut headers, None);
        assert!(headers.is_empty());
    }

    #[test]
    fn timeouts_that_a_request_asks_for_are_taken_out_of_it() {
        let asked = |value: &str| {
            let mut headers = Headers::default();
            headers.append(&Known::XEnvoyUpstreamRqTimeoutMs, value.as_bytes());
            (take_timeouts(&mut headers).whole, headers.contains(&Known::XEnvoyUpstreamRqTimeoutMs))
        };
        assert_eq!(asked("1500"), (Some(Some(Duration::from_millis(1500))), false));
        assert_eq!(asked("0"), (Some(None), false));
        assert_eq!(asked("soon"), (None, true), "the origin may know what is meant");
        assert_eq!(take_timeouts(&mut Headers::default()), AskedTimeouts::default());
    }
}
