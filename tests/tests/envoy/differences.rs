//! Where the gateway and Envoy differ, and why.

/// Where the two differ.
pub struct Difference {
    /// Names of `CLIENTS`.
    pub clients: &'static [&'static str],
    pub case: &'static str,
    pub field: &'static str,
    pub gateway: &'static str,
    pub envoy: &'static str,
    #[expect(dead_code, reason = "for the reader")]
    why: &'static str,
}

impl Difference {
    /// Client, case, field, and what either says.
    pub fn for_each_client(&self) -> impl Iterator<Item = [String; 5]> {
        self.clients.iter().map(|client| [client, self.case, self.field, self.gateway, self.envoy].map(str::to_owned))
    }
}

const NO_SYSTEM_TEXT: &str = "details are a closed set of texts, without what the operating system says";
const LONG_WAITS_ARE_LEFT_TO_CLIENTS: &str =
    "an origin that asks for more time than `max_backoff` is believed; Envoy asks it again at once";

pub const DIFFERENCES: &[Difference] = &[
    Difference {
        clients: &["h1", "h2"],
        case: "connection refused",
        field: "log",
        gateway: "503 UF upstream_reset_before_response_started{remote_connection_failure}",
        envoy: "503 UF upstream_reset_before_response_started{remote_connection_failure|\
                delayed_connect_error:_Connection_refused}",
        why: NO_SYSTEM_TEXT,
    },
    Difference {
        clients: &["h1", "h2"],
        case: "connection refused twice",
        field: "log",
        gateway: "503 URX,UF upstream_reset_before_response_started{remote_connection_failure}",
        envoy: "503 URX,UF upstream_reset_before_response_started{remote_connection_failure|\
                delayed_connect_error:_Connection_refused}",
        why: NO_SYSTEM_TEXT,
    },
    Difference {
        clients: &["grpc"],
        case: "connection refused",
        field: "log",
        gateway: "200 UF upstream_reset_before_response_started{remote_connection_failure}",
        envoy: "200 UF upstream_reset_before_response_started{remote_connection_failure|\
                delayed_connect_error:_Connection_refused}",
        why: NO_SYSTEM_TEXT,
    },
    Difference {
        clients: &["grpc"],
        case: "connection refused twice",
        field: "log",
        gateway: "200 URX,UF upstream_reset_before_response_started{remote_connection_failure}",
        envoy: "200 URX,UF upstream_reset_before_response_started{remote_connection_failure|\
                delayed_connect_error:_Connection_refused}",
        why: NO_SYSTEM_TEXT,
    },
    Difference {
        clients: &["h1", "h2", "grpc"],
        case: "retry-after for too long",
        field: "x-envoy-attempt-count",
        gateway: "1",
        envoy: "2",
        why: LONG_WAITS_ARE_LEFT_TO_CLIENTS,
    },
    Difference {
        clients: &["h1", "h2", "grpc"],
        case: "retry-after for too long",
        field: "log",
        gateway: "503 - via_upstream",
        envoy: "503 URX via_upstream",
        why: LONG_WAITS_ARE_LEFT_TO_CLIENTS,
    },
];
