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
    texts: Vec<u8>,
    longest: usize,
}

struct Edge {
    parent: NodeId,
    child: NodeId,
    text_at: u32,
    text_len: u32,
}

impl Edges {
    /// The node that `text` leads to from `parent`.
    pub(super) fn get(&self, parent: NodeId, text: &[u8]) -> Option<NodeId> {
        // Also bounds the hashing of an overlong segment sent by a client.
        if text.len() > self.longest {
            return None;
        }
        self.table.find(hash(parent, text), |edge| edge.is(parent, text, &self.texts)).map(|edge| edge.child)
    }

    /// Adds an edge that is not there yet.
    pub(super) fn insert(&mut self, parent: NodeId, text: &[u8], child: NodeId) {
        let edge = Edge { parent, child, text_at: self.texts.len() as u32, text_len: text.len() as u32 };
        self.texts.extend_from_slice(text);
        self.longest = self.longest.max(text.len());
        let texts = &self.texts;
        self.table.insert_unique(hash(parent, text), edge, |edge| hash(edge.parent, edge.text(texts)));
    }
}

impl Edge {
    fn is(&self, parent: NodeId, text: &[u8], texts: &[u8]) -> bool {
        self.parent == parent && self.text(texts) == text
    }

    fn text<'a>(&self, texts: &'a [u8]) -> &'a [u8] {
        &texts[self.text_at as usize..][..self.text_len as usize]
    }
}

fn hash(parent: NodeId, text: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u32(parent);
    hasher.write(text);
    hasher.finish()
}
