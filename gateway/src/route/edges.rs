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

/// A node and the hash of the way to it.
///
/// An edge is filed under the hash of its whole way and not of its parent's number, so that the processor need not have
/// fetched one edge to know where the next one is: the cache misses of a descent overlap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) node: NodeId,
    pub(super) hash: u64,
}

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
    /// Where `text` leads to from `parent`.
    pub(super) fn get(&self, parent: Place, text: &[u8]) -> Option<Place> {
        // Also bounds the hashing of an overlong segment sent by a client.
        if text.len() > self.longest {
            return None;
        }
        let (head, tail) = split(text);
        let hash = hash(parent, &head, tail);
        let is_it = |edge: &Edge| {
            edge.parent == parent.node
                && edge.text_len as usize == text.len()
                && edge.head == head
                && edge.tail(&self.tails) == tail
        };
        self.table.find(hash, is_it).map(|edge| Place { node: edge.child, hash })
    }

    /// Adds an edge that is not there yet, to a new node. `hash_of` knows the hashes of the nodes made before.
    pub(super) fn insert(
        &mut self,
        parent: Place,
        text: &[u8],
        child: NodeId,
        hash_of: impl Fn(NodeId) -> u64,
    ) -> Place {
        let (head, tail) = split(text);
        let (text_len, tail_at) = (text.len() as u32, self.tails.len() as u32);
        self.tails.extend_from_slice(tail);
        self.longest = self.longest.max(text.len());
        let hash = hash(parent, &head, tail);
        let edge = Edge { parent: parent.node, child, text_len, tail_at, head };
        self.table.insert_unique(hash, edge, |edge| hash_of(edge.child));
        Place { node: child, hash }
    }
}

impl Place {
    /// A node that no edge leads to.
    pub(super) const fn root(node: NodeId) -> Place {
        Place { node, hash: node as u64 }
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
fn hash(parent: Place, head: &[u8; HEAD_LEN], tail: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u64(parent.hash);
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
        let (mut edges, mut hashes) = (Edges::default(), vec![0; 3]);
        let [one, two, three] = [0, 1, 2].map(Place::root);
        for parent in [one, two] {
            for text in texts {
                let place = edges.insert(parent, text, hashes.len() as NodeId, |node| hashes[node as usize]);
                hashes.push(place.hash);
            }
        }
        for (index, text) in (0..).zip(texts) {
            assert_eq!(edges.get(one, text).map(|place| place.node), Some(3 + index));
            assert_eq!(edges.get(two, text).map(|place| place.node), Some(11 + index));
            assert!(edges.get(three, text).is_none());
        }
        for absent in [&b"b"[..], b"a\0\0", b"sixteen bytes o", b"sixteen bytes ok.", &[b'x'; 299], &[b'x'; 301]] {
            assert!(edges.get(one, absent).is_none());
        }
    }
}
