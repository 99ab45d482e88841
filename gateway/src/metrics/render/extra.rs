//! What the control thread adds to the counters of the workers.

/// What the control thread knows by itself; it is read at each scrape.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// The program's version.
    pub version: &'static str,
    /// Generation of the running configuration.
    pub generation: u64,
    /// Reloads that were put into force.
    pub reloads_ok: u64,
    /// Reloads that changed nothing because the file was bad.
    pub reloads_failed: u64,
    /// When the running configuration was put into force, in seconds since 1970.
    pub last_reload_unix_s: u64,
    /// Certificates whose newest pair is not used, and why.
    pub certificates_refused: Vec<(String, &'static str)>,
    /// Failed writes of the access log.
    pub log_write_errors: u64,
    /// Whether each endpoint takes requests.
    pub endpoints: Vec<EndpointHealth>,
    /// What the XDP program did; empty when it is off.
    pub xdp_packets: Vec<(&'static str, u64)>,
    /// The interfaces of the configuration and the mode of each; empty when XDP is off.
    pub xdp_interfaces: Vec<(String, &'static str)>,
    /// The virtual addresses in the kernel; empty when XDP is off.
    pub vips: Vec<VipCounts>,
    /// Packets that access rules decided on in XDP, by rule; empty when it is off.
    pub xdp_rules: Vec<(String, u64)>,
    /// The kernel's flow tables; empty when XDP is off.
    pub flow_tables: Vec<FlowTableCounts>,
    /// Dropped packets that got a line of the log, and those that did not; `None` when XDP is off.
    pub xdp_drop_log: Option<[u64; 2]>,
    /// 1 while the etcd of the certificate store answers, else 0; `None` without etcd.
    pub store_up: Option<u64>,
    /// Sources that are banned now.
    pub bans: u64,
    /// What weighs on the process, and what is refused for that.
    pub overload: OverloadCounts,
    /// Rate limits with a key, and keys whose buckets are not full.
    pub rate_limit_keys: Vec<(String, usize)>,
    /// Routes with a breaker, and whether it is open.
    pub breakers: Vec<(String, bool)>,
    /// Certificates that are obtained by ACME, how often each was, and how often it failed.
    pub acme: Vec<(String, [u64; 2])>,
    /// Sets of limits, and what each holds.
    pub limit_sets: Vec<LimitSetCounts>,
    /// Faults, and requests that each has its hands on.
    pub faults_active: Vec<(String, u32)>,
    /// Certificates, and what became of alerts about them.
    pub certificates: CertificateCounts,
}

/// Certificates, and what became of alerts about them.
#[derive(Clone, Debug, Default)]
pub struct CertificateCounts {
    /// When each ends. No two have the same kind and name.
    pub ends: Vec<CertificateEnd>,
    /// How many of those with a key are in each state.
    pub states: Vec<(&'static str, usize)>,
    /// Posts to the webhook that were taken, and those that were given up.
    pub posts: [u64; 2],
}

/// When a certificate ends.
#[derive(Clone, Debug)]
pub struct CertificateEnd {
    /// What it is for.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// A name it is good for. It is one, however many there are: a certificate is one series, and stays it when it is
    /// renewed.
    pub domain: String,
    /// In seconds of Unix time.
    pub not_after_s: i64,
}

/// What weighs on the process, and what is refused for that.
#[derive(Clone, Debug, Default)]
pub struct OverloadCounts {
    /// Resident bytes, and the most that may be.
    pub memory: (u64, Option<u64>),
    /// What may be given up for want of memory, and whether it is.
    pub actions: Vec<(&'static str, bool)>,
    /// Of each worker: how long everything waits for it, and how long new connections do, in microseconds.
    pub delays_us: Vec<[u64; 2]>,
    /// Of each worker: the share of requests that it refuses for that, in percent.
    pub refused_percent: Vec<u16>,
    /// Requests refused, by why.
    pub shed: Vec<(&'static str, u64)>,
}

/// How full one of the kernel's flow tables is.
#[derive(Clone, Debug, Default)]
pub struct FlowTableCounts {
    /// `half_open` or `established`.
    pub table: &'static str,
    /// The IP version.
    pub ip: &'static str,
    /// Entries whose flows go on, and those whose time is over.
    pub entries: [u64; 2],
    /// Entries that it has room for.
    pub max: u64,
}

/// What the kernel counted for a virtual address.
#[derive(Clone, Debug, Default)]
pub struct VipCounts {
    /// Its name.
    pub name: String,
    /// Packets and bytes passed to a listener of this box.
    pub local: [u64; 2],
    /// Packets dropped that would have begun a flow.
    pub dropped: u64,
    /// Its endpoints.
    pub endpoints: Vec<VipEndpointCounts>,
}

/// What the kernel counted for an endpoint of a virtual address.
#[derive(Clone, Debug, Default)]
pub struct VipEndpointCounts {
    /// Its address.
    pub address: String,
    /// Flows begun.
    pub flows: u64,
    /// Packets to the endpoint, and back through the box.
    pub packets: [u64; 2],
    /// Bytes of them.
    pub bytes: [u64; 2],
}

/// What a set of limits holds.
#[derive(Clone, Debug)]
pub struct LimitSetCounts {
    /// Its name.
    pub name: String,
    /// Counters whose windows are not over.
    pub counters: usize,
    /// Whether the last exchange with Redis succeeded; `None` where there is no Redis.
    pub is_redis_up: Option<bool>,
}

/// Whether an endpoint takes requests.
#[derive(Clone, Debug)]
pub struct EndpointHealth {
    /// The cluster's name.
    pub cluster: String,
    /// The endpoint's address.
    pub endpoint: String,
    /// Whether it takes requests.
    pub healthy: bool,
    /// How often the health checks changed their mind about it.
    pub changes: u64,
    /// What it has in progress, where that is counted.
    pub active: Option<u32>,
}
