//! The edges of the tree that routes are looked up in: (parent node, text) → child node.
//!
//! One table holds the edges of all nodes, because a table per node would cost an allocation for each path segment of
//! each route. It is built once and never changed, so a client cannot make it grow. The hash is not keyed: which keys
//! there are is the operator's choice, and a client that looks for collisions with them finds at most the few keys
//! that share a probe sequence.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

/// A node of the tree. Nodes are numbered from 0 in the order of their making, so a parent comes before its children.
pub(super) type NodeId = u32;

#[derive(Default)]
pub(super) struct Edges {
    table: HashTable<Edge>,
    /// What of the texts does not fit into their edges.
    tails: Vec<u8>,
    longest: usize,
}

/// Half a cache line, with as much of the text in it as most segments have: the table is larger than the caches, so
/// that what a lookup costs is the lines it touches.
struct Edge {
    parent: NodeId,
    child: NodeId,
    text_len: u32,
    tail_at: u32,
    head: [u8; HEAD_LEN],
}

const HEAD_LEN: usize = 16;

impl Edges {
    /// The node that `text` leads to from `parent`.
    pub(super) fn get(&self, parent: NodeId, text: &[u8]) -> Option<NodeId> {
        // Also bounds the hashing of an overlong segment sent by a client.
        if text.len() > self.longest {
            return None;
        }
        let (head, tail) = split(text);
        let is_it = |edge: &Edge| {
            edge.parent == parent
                && edge.text_len as usize == text.len()
                && edge.head == head
                && edge.tail(&self.tails) == tail
        };
        self.table.find(hash(parent, &head, tail), is_it).map(|edge| edge.child)
    }

    /// Adds an edge that is not there yet.
    pub(super) fn insert(&mut self, parent: NodeId, text: &[u8], child: NodeId) {
        let (head, tail) = split(text);
        let edge = Edge { parent, child, text_len: text.len() as u32, tail_at: self.tails.len() as u32, head };
        self.tails.extend_from_slice(tail);
        self.longest = self.longest.max(text.len());
        let rehash = |edge: &Edge| hash(edge.parent, &edge.head, edge.tail(&self.tails));
        self.table.insert_unique(hash(parent, &head, tail), edge, rehash);
    }
}

impl Edge {
    fn tail<'a>(&self, tails: &'a [u8]) -> &'a [u8] {
        let len = (self.text_len as usize).saturating_sub(HEAD_LEN);
        &tails[self.tail_at as usize..][..len]
    }
}

/// The first bytes of `text`, filled up with zeros, and the rest of it.
fn split(text: &[u8]) -> ([u8; HEAD_LEN], &[u8]) {
    let (first, tail) = text.split_at(text.len().min(HEAD_LEN));
    let mut head = [0; HEAD_LEN];
    head[..first.len()].copy_from_slice(first);
    (head, tail)
}

/// Texts that differ only in zeros at their end hash the same; their lengths tell them apart.
fn hash(parent: NodeId, head: &[u8; HEAD_LEN], tail: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u32(parent);
    hasher.write_u128(u128::from_ne_bytes(*head));
    if !tail.is_empty() {
        hasher.write(tail);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_found_by_its_parent_and_whole_text_only() {
        let texts: [&[u8]; 8] =
            [b"", b"\0", b"a", b"a\0", b"sixteen bytes ok", b"sixteen bytes ok!", b"sixteen bytes ok?", &[b'x'; 300]];
        let mut edges = Edges::default();
        for (child, text) in (10..).zip(texts) {
            edges.insert(1, text, child);
            edges.insert(2, text, child + 100);
        }
        for (child, text) in (10..).zip(texts) {
            assert_eq!(edges.get(1, text), Some(child));
            assert_eq!(edges.get(2, text), Some(child + 100));
            assert_eq!(edges.get(3, text), None);
        }
        for absent in [&b"b"[..], b"a\0\0", b"sixteen bytes o", b"sixteen bytes ok.", &[b'x'; 299], &[b'x'; 301]] {
            assert_eq!(edges.get(1, absent), None);
        }
    }
}
