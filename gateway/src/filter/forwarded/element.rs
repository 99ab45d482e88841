//! Elements of `forwarded` (RFC 7239 §4): what each proxy says of the connection it took.
//!
//! Read from the right, where the trusted proxies wrote. A quote that a client leaves open at the left can then not
//! swallow the elements that were added after it.

use std::net::IpAddr;

use super::{Peer, parse_hop};
use crate::proto::head::is_token_byte;

/// The address of each element of a line, the last one first. `None` is an element without one: it has no `for` or two,
/// an obfuscated one (§6.3), or is broken.
pub fn hops_from_right(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    split_from_right(line, b',').filter(|element| !element.is_empty()).map(|element| parse_node(node_of(element)?))
}

/// Appends the element for the connection from `peer` that asked for `host` (§5).
pub fn write(peer: &Peer, host: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"for=");
    match peer.ip() {
        IpAddr::V4(_) => out.extend_from_slice(peer.ip_text()),
        IpAddr::V6(_) => out.extend([b"\"[", peer.ip_text(), b"]\""].into_iter().flatten()),
    }
    if !host.is_empty() {
        out.extend_from_slice(b";host=");
        if host.iter().all(|&byte| is_token_byte(byte)) {
            out.extend_from_slice(host);
        } else {
            // A checked authority has neither quotes nor backslashes, which would need escaping.
            out.extend([b"\"", host, b"\""].into_iter().flatten());
        }
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(peer.scheme().as_bytes());
}

/// The value of an element's only `for`, without its quotes.
fn node_of(element: &[u8]) -> Option<&[u8]> {
    let mut nodes = split_from_right(element, b';').filter_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        pair[..equals].eq_ignore_ascii_case(b"for").then(|| &pair[equals + 1..])
    });
    let node = nodes.next().filter(|_| nodes.next().is_none())?;
    match node {
        [b'"', quoted @ .., b'"'] => Some(quoted),
        _ => Some(node),
    }
}

/// A node (§6) that is an address. Escapes are not undone: no address needs one.
fn parse_node(node: &[u8]) -> Option<IpAddr> {
    // An obfuscated port (§6.3) is as good as any.
    let port_at = memchr::memmem::find(node, b":_").unwrap_or(node.len());
    parse_hop(&node[..port_at])
}

/// The parts between separators that are in no quoted string, trimmed, the last one first.
fn split_from_right(list: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let list = rest?;
        let (before, part) = match last_unquoted(list, separator) {
            Some(at) => (Some(&list[..at]), &list[at + 1..]),
            None => (None, list),
        };
        rest = before;
        Some(part.trim_ascii())
    })
}

fn last_unquoted(list: &[u8], separator: u8) -> Option<usize> {
    let mut is_quoted = false;
    for (at, &byte) in list.iter().enumerate().rev() {
        if byte == b'"' && !is_escaped(list, at) {
            is_quoted = !is_quoted;
        } else if byte == separator && !is_quoted {
            return Some(at);
        }
    }
    None
}

/// Whether an odd number of backslashes is before this place.
fn is_escaped(text: &[u8], at: usize) -> bool {
    text[..at].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}
