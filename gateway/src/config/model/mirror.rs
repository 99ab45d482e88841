//! `mirror` of a route.

use super::{ClusterId, Share};

/// `mirror` and `mirror_body_bytes`: copies of requests, whose answers nobody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    /// `mirror`: where copies go; at least one.
    pub targets: Vec<Mirror>,
    /// `mirror_body_bytes`: longest body that is copied. Default 64 KiB.
    pub body_bytes: u64,
}

/// One of `mirror`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// `cluster`; each is named once in a route.
    pub cluster: ClusterId,
    /// `percent`: of the requests that an origin gets. Default all.
    pub share: Share,
    /// `shadow_host`: whether the copy's host ends in `-shadow` (Envoy's default). Default on.
    pub shadow_host: bool,
    /// `max_active`: copies at once, over all workers. Default 256.
    pub max_active: u32,
}
