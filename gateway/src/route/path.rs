//! Paths as routes see them: a list of segments.

use crate::config::model::PathMatch;

/// The segments of a path that begins with `/`. `/` alone has one empty segment, as `/a/` has an empty last one.
pub(super) fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(path.strip_prefix(b"/").unwrap_or(path))
}

/// The segments every path below `prefix` begins with; `/` has none.
pub(super) fn prefix_segments(prefix: &str) -> impl Iterator<Item = &[u8]> {
    let rest = prefix.trim_matches('/').as_bytes();
    (!rest.is_empty()).then(|| split(rest)).into_iter().flatten()
}

/// How much of `path` the route matched, which is what a prefix rewrite replaces. The prefix `/` counts as empty, so
/// that what is left always begins with `/`; exact paths and regular expressions match the whole path, as in Envoy.
pub fn matched_len(matcher: &PathMatch, path: &[u8]) -> usize {
    match matcher {
        PathMatch::Prefix(prefix) => prefix.trim_end_matches('/').len().min(path.len()),
        PathMatch::Exact(_) | PathMatch::Regex(_) => path.len(),
    }
}

/// Appends `path` with its first `matched_len` bytes replaced by `replacement`.
///
/// Joins like `ReplacePrefixMatch` of the Gateway API: exactly one slash between replacement and rest, and never an
/// empty path. (Envoy's `prefix_rewrite` joins the bytes as they are and so makes `//b` of `/a/b` when `/a` becomes
/// `/`.)
pub(super) fn replace_prefix(path: &[u8], matched_len: usize, replacement: &str, out: &mut Vec<u8>) {
    let rest = &path[matched_len.min(path.len())..];
    let replacement = if rest.is_empty() { replacement } else { replacement.trim_end_matches('/') };
    if replacement.is_empty() && rest.is_empty() {
        out.push(b'/');
    }
    out.extend_from_slice(replacement.as_bytes());
    out.extend_from_slice(rest);
}

fn split(rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    rest.split(|&byte| byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_prefix_joins_with_one_slash() {
        // The first twelve rows are the Gateway API's own table.
        let cases = [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo", "/foo", "/xyz/", "/xyz/"),
            ("/a/b/c", "/a/b", "/", "/c"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/a", "/", "/xyz", "/xyz/a"),
            ("/a", "/", "/", "/a"),
        ];
        for (path, prefix, replacement, expected) in cases {
            let matched = matched_len(&PathMatch::Prefix(prefix.into()), path.as_bytes());
            let mut out = Vec::new();
            replace_prefix(path.as_bytes(), matched, replacement, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{path}: {prefix} -> {replacement:?}");
        }
    }

    #[test]
    fn an_exact_path_is_replaced_as_a_whole() {
        let matched = matched_len(&PathMatch::Exact("/old".into()), b"/old");
        let mut out = Vec::new();
        replace_prefix(b"/old", matched, "/new/", &mut out);
        assert_eq!(out, b"/new/");
    }

    #[test]
    fn a_path_is_a_list_of_segments() {
        let cases: &[(&str, &[&str])] =
            &[("/", &[""]), ("/a", &["a"]), ("/a/", &["a", ""]), ("/a//b", &["a", "", "b"])];
        for (path, expected) in cases {
            let found: Vec<&[u8]> = segments(path.as_bytes()).collect();
            let expected: Vec<&[u8]> = expected.iter().map(|text| text.as_bytes()).collect();
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(prefix_segments("/").count(), 0);
        assert_eq!(prefix_segments("/a/b").collect::<Vec<_>>(), [b"a", b"b"]);
    }
}
