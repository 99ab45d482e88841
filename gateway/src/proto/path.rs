//! Path normalisation: routes and origin must see the same path.
//!
//! An origin may take `/public/%2e%2e/admin`, `/public//../admin` or `/%61dmin` for `/admin`. So the gateway makes every
//! path what RFC 3986 §6.2.2 says it means before routes see it, and the origin gets the result.

use std::ops::Range;

/// What happens to a path before routes see it, and what the origin gets.
///
/// Whatever the policy: escapes of unreserved characters are decoded and the others written in upper case (RFC 3986
/// §6.2.2.1 and .2); broken escapes and `%00` are refused, as nginx does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathPolicy {
    /// `dot_segments`: resolve `.` and `..` (also written `%2e`) as RFC 3986 §5.2.4 says. Default on.
    pub dot_segments: bool,
    /// `merge_slashes`: `//` becomes `/`, before dot segments are resolved. Default on.
    pub merge_slashes: bool,
    /// `encoded_slashes`: what to do with `%2f`, `%5c` and `\`. Default [`EncodedSlashes::Reject`].
    pub encoded_slashes: EncodedSlashes,
}

impl Default for PathPolicy {
    fn default() -> Self {
        PathPolicy { dot_segments: true, merge_slashes: true, encoded_slashes: EncodedSlashes::Reject }
    }
}

/// What to do with an escaped slash or backslash in a path (Envoy's `path_with_escaped_slashes_action`). A bare
/// backslash is no URI character and many origins take it for a slash, so it counts as an escaped one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedSlashes {
    /// `"keep"`: leave it as it is.
    Keep,
    /// `"reject"`: answer 400.
    Reject,
    /// `"decode"`: make it a `/` before anything else happens.
    Decode,
}

/// Why a path was refused. Each one is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// `%` without two hexadecimal digits.
    Escape,
    /// `%00`.
    Nul,
    /// An escaped slash, and the policy is [`EncodedSlashes::Reject`].
    EncodedSlash,
}

impl PathError {
    /// The response code detail of the access log.
    pub fn detail(self) -> &'static str {
        match self {
            PathError::Escape => "path_invalid_escape",
            PathError::Nul => "path_encoded_nul",
            PathError::EncodedSlash => "path_escaped_slash",
        }
    }
}

/// Normalises the path of `target` in place; the query stays as it is, and so does `*`.
///
/// On an error `target` is half done and of no use.
pub fn normalise(target: &mut Vec<u8>, policy: PathPolicy) -> Result<(), PathError> {
    if target.first() != Some(&b'/') {
        return Ok(());
    }
    let Some(end) = end_if_unusual(target) else { return Ok(()) };
    let mut path = decode(&mut target[..end], policy.encoded_slashes)?;
    if policy.dot_segments || policy.merge_slashes {
        path = resolve_segments(&mut target[..path], policy);
    }
    target.drain(path..end);
    Ok(())
}

/// The one scan that most paths cost: `None` when there is nothing to do, else where the path ends.
fn end_if_unusual(target: &[u8]) -> Option<usize> {
    let (mut previous, mut unusual) = (0, false);
    for (at, &byte) in target.iter().enumerate() {
        match byte {
            b'?' => return unusual.then_some(at),
            b'%' | b'\\' => unusual = true,
            b'/' | b'.' if previous == b'/' => unusual = true,
            _ => {}
        }
        previous = byte;
    }
    unusual.then_some(target.len())
}

/// Decodes and tidies escapes in place; how long the path is now.
fn decode(path: &mut [u8], slashes: EncodedSlashes) -> Result<usize, PathError> {
    let (mut read, mut write) = (0, 0);
    while read < path.len() {
        let taken = read..read + if path[read] == b'%' { 3 } else { 1 };
        let written = match path.get(taken.clone()).ok_or(PathError::Escape)? {
            [b'\\'] => slash(slashes)?,
            [_] => None,
            escape => unescaped(escape, slashes)?,
        };
        read = taken.end;
        write += match written {
            Some(byte) => {
                path[write] = byte;
                1
            }
            None => keep(path, taken, write),
        };
    }
    Ok(write)
}

/// What stands for `%xx`; `None` keeps it.
fn unescaped(escape: &[u8], slashes: EncodedSlashes) -> Result<Option<u8>, PathError> {
    let digit = |at: usize| (escape[at] as char).to_digit(16).ok_or(PathError::Escape);
    match (digit(1)? << 4 | digit(2)?) as u8 {
        0 => Err(PathError::Nul),
        b'/' | b'\\' => slash(slashes),
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => Ok(Some(byte)),
        _ => Ok(None),
    }
}

fn slash(slashes: EncodedSlashes) -> Result<Option<u8>, PathError> {
    match slashes {
        EncodedSlashes::Keep => Ok(None),
        EncodedSlashes::Reject => Err(PathError::EncodedSlash),
        EncodedSlashes::Decode => Ok(Some(b'/')),
    }
}

/// Moves one character or escape down, escapes in upper case; its length.
fn keep(path: &mut [u8], taken: Range<usize>, write: usize) -> usize {
    let length = taken.len();
    path.copy_within(taken, write);
    if length > 1 {
        path[write..write + length].make_ascii_uppercase();
    }
    length
}

/// Resolves segments in place; how long the path is now.
///
/// `write` always stands behind a slash, so a segment that goes leaves the slash before it: `/a/..` becomes `/`.
fn resolve_segments(path: &mut [u8], policy: PathPolicy) -> usize {
    let (mut read, mut write) = (1, 1);
    loop {
        let end = memchr::memchr(b'/', &path[read..]).map_or(path.len(), |at| read + at);
        let is_last = end == path.len();
        match &path[read..end] {
            [] if policy.merge_slashes => {}
            b"." if policy.dot_segments => {}
            b".." if policy.dot_segments => write = memchr::memrchr(b'/', &path[..write - 1]).map_or(1, |at| at + 1),
            segment => {
                // With the slash behind it, when there is one.
                let length = segment.len() + usize::from(!is_last);
                path.copy_within(read..read + length, write);
                write += length;
            }
        }
        if is_last {
            return write;
        }
        read = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: PathPolicy = PathPolicy { encoded_slashes: EncodedSlashes::Keep, ..REJECT };
    const DECODE: PathPolicy = PathPolicy { encoded_slashes: EncodedSlashes::Decode, ..REJECT };
    const REJECT: PathPolicy =
        PathPolicy { dot_segments: true, merge_slashes: true, encoded_slashes: EncodedSlashes::Reject };
    const PLAIN: PathPolicy =
        PathPolicy { dot_segments: false, merge_slashes: false, encoded_slashes: EncodedSlashes::Keep };

    fn normalised(target: &str, policy: PathPolicy) -> Result<String, PathError> {
        let mut target = target.as_bytes().to_vec();
        normalise(&mut target, policy).map(|()| String::from_utf8(target).unwrap())
    }

    #[test]
    fn paths_become_what_they_mean() {
        for (target, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/b?c=d", "/a/b?c=d"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/...", "/..."),
            ("/.a/..b/c.", "/.a/..b/c."),
            ("//", "/"),
            ("//a///b//", "/a/b/"),
            ("/a//../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/%61dmin/%7Euser", "/admin/~user"),
            ("/a%20b%c3%a9", "/a%20b%C3%A9"),
            ("/%2561", "/%2561"),
            ("/a//b?x=//../%2f%zz\\", "/a/b?x=//../%2f%zz\\"),
            ("/?/../", "/?/../"),
            ("/../?a", "/?a"),
            ("/a;p=1/../b", "/b"),
        ] {
            assert_eq!(normalised(target, REJECT).as_deref(), Ok(expected), "{target}");
        }
    }

    #[test]
    fn bad_paths_are_refused_for_the_right_reason() {
        for (target, error) in [
            ("/%", PathError::Escape),
            ("/%2", PathError::Escape),
            ("/%2?", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/%+1", PathError::Escape),
            ("/%%41", PathError::Escape),
            ("/a%00b", PathError::Nul),
            ("/a%2fb", PathError::EncodedSlash),
            ("/a%2Fb", PathError::EncodedSlash),
            ("/a%5cb", PathError::EncodedSlash),
            ("/a\\b", PathError::EncodedSlash),
        ] {
            assert_eq!(normalised(target, REJECT), Err(error), "{target}");
        }
    }

    #[test]
    fn encoded_slashes_are_treated_as_the_policy_says() {
        for (target, kept, decoded) in [
            ("/a%2fb", "/a%2Fb", "/a/b"),
            ("/a%5Cb\\c", "/a%5Cb\\c", "/a/b/c"),
            ("/a%2f..%2fb", "/a%2F..%2Fb", "/b"),
            ("/a/%2fb", "/a/%2Fb", "/a/b"),
            ("/a%252fb", "/a%252fb", "/a%252fb"),
        ] {
            assert_eq!(normalised(target, KEEP).as_deref(), Ok(kept), "{target}");
            assert_eq!(normalised(target, DECODE).as_deref(), Ok(decoded), "{target}");
        }
    }

    #[test]
    fn what_the_policy_switches_off_stays() {
        assert_eq!(normalised("/a//../b/%2e/c", PLAIN).as_deref(), Ok("/a//../b/./c"));
        let only_dots = PathPolicy { merge_slashes: false, ..KEEP };
        assert_eq!(normalised("/a//../b//c", only_dots).as_deref(), Ok("/a/b//c"));
        let only_slashes = PathPolicy { dot_segments: false, ..KEEP };
        assert_eq!(normalised("/a//../b//./c", only_slashes).as_deref(), Ok("/a/../b/./c"));
    }

    fn policy() -> impl Strategy<Value = PathPolicy> {
        let slashes = [EncodedSlashes::Keep, EncodedSlashes::Reject, EncodedSlashes::Decode];
        (any::<bool>(), any::<bool>(), prop::sample::select(slashes.to_vec())).prop_map(
            |(dot_segments, merge_slashes, encoded_slashes)| PathPolicy {
                dot_segments,
                merge_slashes,
                encoded_slashes,
            },
        )
    }

    /// Targets full of what matters here.
    fn target() -> impl Strategy<Value = String> {
        let pieces =
            ["/", "/", ".", "..", "a", "b", "%2e", "%2F", "%5c", "%25", "%61", "%c3", "%00", "%", "\\", "?", ";"];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..16)
            .prop_map(|parts| format!("/{}", parts.concat()))
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing_more(target in target(), policy in policy()) {
            if let Ok(once) = normalised(&target, policy) {
                prop_assert_eq!(normalised(&once, policy), Ok(once));
            }
        }

        #[test]
        fn a_normalised_path_has_nothing_left_to_resolve(target in target(), policy in policy()) {
            let Ok(out) = normalised(&target, policy) else { return Ok(()) };
            let path = out.split('?').next().unwrap();
            prop_assert!(path.starts_with('/'));
            prop_assert!(!policy.merge_slashes || !path.contains("//"), "{}", path);
            prop_assert!(!policy.dot_segments || !path.split('/').any(|segment| matches!(segment, "." | "..")), "{}", path);
            prop_assert_eq!(out.split_once('?').map(|(_, query)| query), target.split_once('?').map(|(_, query)| query));
        }
    }
}
