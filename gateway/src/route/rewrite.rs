//! What an origin is asked for, where a route says that it is not what the client asked for.

use super::path::{matched_len, replace_prefix};
use crate::config::model::{Forward, PathMatch};
use crate::proto::head::{Known, RequestHead};

/// Rewrites the head of a request that is about to be forwarded: once, whatever the number of attempts.
///
/// `x-envoy-original-path` gets the target the client sent, with its query, as in Envoy. `x-forwarded-host` must have
/// been set before (`filter::forwarded`). `scratch` is memory to reuse.
pub fn apply(forward: &Forward, matcher: &PathMatch, head: &mut RequestHead, scratch: &mut Vec<u8>) {
    if let Some(prefix) = &forward.rewrite_prefix {
        rewrite_prefix(prefix, matcher, head, scratch);
    }
    if let Some(host) = &forward.rewrite_host {
        head.authority.clear();
        head.authority.extend_from_slice(host.as_bytes());
    }
}

fn rewrite_prefix(prefix: &str, matcher: &PathMatch, head: &mut RequestHead, scratch: &mut Vec<u8>) {
    scratch.clear();
    let path = head.path();
    replace_prefix(path, matched_len(matcher, path), prefix, scratch);
    scratch.extend_from_slice(&head.target[path.len()..]);
    head.headers.set(&Known::XEnvoyOriginalPath, &head.target);
    std::mem::swap(&mut head.target, scratch);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(prefix: Option<&str>, host: Option<&str>, matcher: PathMatch, target: &str) -> RequestHead {
        let forward = Forward {
            clusters: Vec::new(),
            rewrite_prefix: prefix.map(Into::into),
            rewrite_host: host.map(Into::into),
            hash_on: Vec::new(),
            subset: None,
        };
        let mut head = RequestHead { authority: b"a.test".into(), target: target.into(), ..RequestHead::default() };
        apply(&forward, &matcher, &mut head, &mut Vec::new());
        head
    }

    #[test]
    fn a_prefix_rewrite_keeps_the_query_and_tells_the_original_path() {
        let cases = [
            (PathMatch::Prefix("/api".into()), "/", "/api/users?id=/api", "/users?id=/api"),
            (PathMatch::Prefix("/api".into()), "/v2/", "/api", "/v2/"),
            (PathMatch::Prefix("/".into()), "/v2", "/users", "/v2/users"),
            (PathMatch::Exact("/old".into()), "/new", "/old?q", "/new?q"),
        ];
        for (matcher, prefix, target, expected) in cases {
            let head = rewritten(Some(prefix), None, matcher, target);
            assert_eq!(String::from_utf8_lossy(&head.target), expected);
            assert_eq!(head.headers.get(&Known::XEnvoyOriginalPath), Some(target.as_bytes()));
            assert_eq!(head.authority, b"a.test");
        }
    }

    #[test]
    fn a_host_rewrite_changes_the_authority_only() {
        let head = rewritten(None, Some("b.test"), PathMatch::default(), "/a?b");
        assert_eq!((head.authority.as_slice(), head.target.as_slice()), (&b"b.test"[..], &b"/a?b"[..]));
        assert!(!head.headers.contains(&Known::XEnvoyOriginalPath));
    }
}
