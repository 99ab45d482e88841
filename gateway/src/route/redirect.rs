//! Where a redirect sends the client.

use super::host::split_port;
use super::path::replace_prefix;
use crate::config::model::Redirect;
use crate::proto::head::RequestHead;

/// Appends the `location` of a redirect. `scheme` is the one the client used; `matched_len` is
/// [`super::path::matched_len`] of the route.
///
/// What the redirect does not name stays as in the request; the query always stays. The port follows the Gateway API:
/// the named one, else the default of a named scheme, else the client's; a scheme's default port is not written. (Envoy
/// keeps a port other than 80 and 443 when the scheme changes, which sends `http://a:8080` to an HTTPS port that speaks
/// plain HTTP.)
pub fn location(redirect: &Redirect, scheme: &str, head: &RequestHead, matched_len: usize, out: &mut Vec<u8>) {
    let has_authority = write_origin(redirect, scheme, head, out);
    let path_at = out.len();
    match (&redirect.path, &redirect.path_prefix) {
        (Some(path), _) => out.extend_from_slice(path.as_bytes()),
        (None, Some(prefix)) => replace_prefix(head.path(), matched_len, prefix, out),
        (None, None) => out.extend_from_slice(head.path()),
    }
    // A reference that begins with `//` names a host (RFC 3986 §4.2), which the client would choose.
    if !has_authority && out[path_at..].starts_with(b"//") {
        out.splice(path_at..path_at, *b"/.");
    }
    if let Some(query) = head.query() {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}

/// Writes `scheme://host:port`. An HTTP/1.0 request without `Host` to a redirect without `host` has nothing to write:
/// the location is then a path only, which RFC 9110 §10.2.2 allows.
fn write_origin(redirect: &Redirect, scheme: &str, head: &RequestHead, out: &mut Vec<u8>) -> bool {
    let (client_host, client_port) = split_port(&head.authority);
    let host = redirect.host.as_ref().map_or(client_host, String::as_bytes);
    if host.is_empty() {
        return false;
    }
    let kept_port = if redirect.scheme.is_none() { client_port } else { None };
    let scheme = redirect.scheme.as_deref().unwrap_or(scheme);
    out.extend_from_slice(scheme.as_bytes());
    out.extend_from_slice(b"://");
    out.extend_from_slice(host);
    if let Some(port) = redirect.port.or(kept_port).filter(|&port| Some(port) != default_port(scheme)) {
        out.push(b':');
        out.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
    }
    true
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(redirect: Redirect, scheme: &str, authority: &str, target: &str, matched_len: usize) -> String {
        let head = RequestHead { authority: authority.into(), target: target.into(), ..RequestHead::default() };
        let mut out = Vec::new();
        location(&redirect, scheme, &head, matched_len, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn nothing() -> Redirect {
        Redirect { status: 301, scheme: None, host: None, port: None, path: None, path_prefix: None }
    }

    #[test]
    fn a_redirect_to_https_keeps_host_path_and_query() {
        let to_https = || Redirect { scheme: Some("https".into()), ..nothing() };
        let cases = [
            ("a.test", "/p/q?x=1&y=%20", "https://a.test/p/q?x=1&y=%20"),
            ("a.test:80", "/", "https://a.test/"),
            ("a.test:8080", "/?", "https://a.test/?"),
            ("[::1]:80", "/a", "https://[::1]/a"),
        ];
        for (authority, target, expected) in cases {
            assert_eq!(located(to_https(), "http", authority, target, 0), expected);
        }
    }

    #[test]
    fn a_default_port_is_not_written() {
        let port =
            |port, scheme: Option<&str>| Redirect { port: Some(port), scheme: scheme.map(Into::into), ..nothing() };
        assert_eq!(located(port(443, Some("https")), "http", "a.test", "/", 0), "https://a.test/");
        assert_eq!(located(port(8443, Some("https")), "http", "a.test", "/", 0), "https://a.test:8443/");
        assert_eq!(located(port(80, None), "http", "a.test:8080", "/", 0), "http://a.test/");
        assert_eq!(located(port(80, None), "https", "a.test", "/", 0), "https://a.test:80/");
    }

    #[test]
    fn without_a_new_scheme_the_clients_port_stays() {
        let to_host = Redirect { host: Some("b.test".into()), ..nothing() };
        assert_eq!(located(to_host.clone(), "http", "a.test:8080", "/x", 0), "http://b.test:8080/x");
        assert_eq!(located(to_host, "https", "a.test:443", "/x", 0), "https://b.test/x");
    }

    #[test]
    fn a_path_or_its_prefix_is_replaced_and_the_query_stays() {
        let to_path = Redirect { path: Some("/new".into()), ..nothing() };
        assert_eq!(located(to_path, "http", "a.test", "/old/x?q", 4), "http://a.test/new?q");
        let to_prefix = Redirect { path_prefix: Some("/new/".into()), ..nothing() };
        assert_eq!(located(to_prefix, "http", "a.test", "/old/x?q", 4), "http://a.test/new/x?q");
    }

    #[test]
    fn without_any_host_the_location_is_a_path_that_cannot_be_read_as_a_host() {
        assert_eq!(located(nothing(), "http", "", "/a", 0), "/a");
        assert_eq!(located(nothing(), "http", "", "//evil.test/a", 0), "/.//evil.test/a");
    }
}
