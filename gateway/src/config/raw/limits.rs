//! `[[limits]]`

use crate::config::decode::{List, Optional, Required, table};
use crate::config::value::{Count, FilePath, HeaderValue, Name, PositiveDuration, Upstream};

table! { "[[limits]]"
/// Rules that judge descriptors on this box, and what they have counted.
pub struct LimitSet {
    /// What routes and filters call it, and metrics.
    #[schemars(extend("examples" = ["shared"]))]
    pub name: Required<Name>,
    /// Files in the format of envoyproxy/ratelimit (YAML), each with one `domain` and its `descriptors`. Relative to this
    /// file; `*`, `?` and `[…]` as in a shell. A change of one, or a new one, is a reason to reload.
    #[schemars(extend("examples" = [["limits/*.yaml"]]))]
    pub files: Required<List<FilePath>>,
    /// Counters that are held. When there are more, those that have counted least are forgotten. Takes 35 bytes each,
    /// and 16 more with `redis`, which takes up to 50 MiB besides.
    #[schemars(extend("default" = 65536, "examples" = [1000000]))]
    pub max_counters: Optional<Count<u32, 16, 16_777_216>>,
    /// Counts what would be over its limit, and answers that nothing is.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub shadow_mode: Optional<bool>,
    /// A Redis or Valkey by which several boxes share what they count. Without it, each counts for itself.
    pub redis: Optional<RedisStore>,
}
}

table! { "`redis` of [[limits]]"
/// Where several boxes add up what they count. No request waits for it: each box decides by what it has counted and by
/// what it last heard of the others.
pub struct RedisStore {
    /// Where it listens.
    #[schemars(extend("examples" = ["redis.internal:6379"]))]
    pub address: Required<Upstream>,
    /// From one exchange to the next: 50 milliseconds to a minute. What a box does not know of the others is what they
    /// counted in this time.
    #[schemars(extend("default" = "100ms", "examples" = ["50ms"]))]
    pub interval: Optional<PositiveDuration>,
    /// The user to log in as (Redis 6 and later).
    #[schemars(extend("examples" = ["gateway"]))]
    pub username: Optional<HeaderValue>,
    /// A file whose first line is the password.
    #[schemars(extend("examples" = ["redis.password"]))]
    pub password_file: Optional<FilePath>,
    /// The number of the database.
    #[schemars(extend("default" = 0, "examples" = [1]))]
    pub database: Optional<Count<u32, 0, 65_535>>,
    /// What every key begins with. Boxes with the same share their counts.
    #[schemars(extend("default" = "gateway", "examples" = ["edge"]))]
    pub prefix: Optional<Name>,
}
}
