//! Fields that end at this hop (RFC 9110 §7.6.1).

use crate::proto::head::{Headers, Known};

/// Removes the fields that concern this connection only, and those that `Connection` names.
///
/// As in Envoy, `te` stays when it asks for `trailers` (gRPC needs it), and `proxy-authenticate` and
/// `proxy-authorization` pass: the gateway does not use them, so they are for a proxy behind it (RFC 9110 §11.7.2).
///
/// `Connection` cannot name a field the gateway itself reads or writes: else a client could take away what an outer
/// proxy added (CVE-2022-31813, CVE-2024-45410) or hide a field that frames the message.
pub fn strip(headers: &mut Headers) {
    let nominates = headers.get_all(&Known::Connection).flat_map(options).any(|option| !is_usual_option(option));
    if nominates {
        strip_nominated(headers);
    }
    headers.retain(|known, _, value| match known {
        Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::TransferEncoding | Known::Upgrade => {
            false
        }
        Known::Te => value.eq_ignore_ascii_case(b"trailers"),
        _ => true,
    });
}

/// The comma-separated options of a `Connection` value.
pub fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

/// Options that name no field besides those which go anyway.
fn is_usual_option(option: &[u8]) -> bool {
    [b"keep-alive".as_slice(), b"close", b"upgrade", b"te"].iter().any(|usual| option.eq_ignore_ascii_case(usual))
}

/// Rare, so it may allocate.
fn strip_nominated(headers: &mut Headers) {
    let nominated = headers.get_all(&Known::Connection).collect::<Vec<_>>().join(&b',');
    headers.retain(|known, name, _| {
        known != Known::Other || !options(&nominated).any(|option| option.eq_ignore_ascii_case(name))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(fields: &[(&str, &str)]) -> Vec<String> {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.append_raw(name.as_bytes(), value.as_bytes());
        }
        strip(&mut headers);
        headers.iter().map(|(_, name, _)| String::from_utf8(name.to_vec()).unwrap()).collect()
    }

    #[test]
    fn fields_of_this_connection_go_and_others_stay() {
        let left = stripped(&[
            ("Accept", "*/*"),
            ("Connection", "keep-alive, Upgrade"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("Trailer", "x-sum"),
            ("Proxy-Authorization", "Basic eDp5"),
        ]);
        assert_eq!(left, ["accept", "trailer", "proxy-authorization"]);
    }

    #[test]
    fn te_stays_only_when_it_asks_for_trailers() {
        assert_eq!(stripped(&[("TE", "trailers")]), ["te"]);
        assert_eq!(stripped(&[("TE", "Trailers"), ("connection", "TE")]), ["te"]);
        assert!(stripped(&[("TE", "gzip")]).is_empty());
        assert!(stripped(&[("TE", "trailers, deflate;q=0.5")]).is_empty());
    }

    #[test]
    fn fields_that_connection_names_go_with_it() {
        let left = stripped(&[("X-Hop", "1"), ("x-end", "2"), ("Connection", "close,, x-HOP "), ("x-hop", "3")]);
        assert_eq!(left, ["x-end"]);
        assert!(stripped(&[("Connection", "a"), ("connection", "b"), ("a", ""), ("b", "")]).is_empty());
    }

    #[test]
    fn connection_cannot_name_a_field_that_the_gateway_reads_or_writes() {
        let options = "x-forwarded-for, content-length, host, authorization, cookie, x-request-id, via, forwarded";
        let left = stripped(&[
            ("Connection", options),
            ("X-Forwarded-For", "10.0.0.1"),
            ("Content-Length", "3"),
            ("Authorization", "Bearer x"),
            ("Cookie", "a=b"),
            ("X-Request-Id", "1"),
            ("Via", "1.1 outer"),
            ("Forwarded", "for=10.0.0.1"),
        ]);
        assert_eq!(left.len(), 7, "{left:?}");
    }
}
