//! The JSON line: one object with these members, always all of them, in this order. The names are those of Istio's
//! default JSON log, so that existing dashboards read it; what that log does not have comes after them.
//!
//! | member | value |
//! |---|---|
//! | `start_time` | RFC 3339, UTC, milliseconds |
//! | `method`, `path`, `protocol` | as the client asked, the path before a rewrite; `null` when the head was unreadable |
//! | `response_code` | number; 0 when the client left before the response |
//! | `response_flags` | `"URX,UF"`; `"-"` for none |
//! | `response_code_details`, `upstream_transport_failure_reason` | text or `null` |
//! | `bytes_received`, `bytes_sent` | bytes of the bodies |
//! | `duration`, `upstream_service_time` | milliseconds; the second may be `null` |
//! | `x_forwarded_for`, `user_agent`, `request_id`, `authority` | of the request, or `null` |
//! | `upstream_attempts` | how often the request was sent |
//! | `upstream_host`, `upstream_cluster`, `upstream_local_address` | text or `null` |
//! | `downstream_local_address`, `downstream_remote_address` | `address:port`; the second after trusted proxies |
//! | `requested_server_name`, `route_name` | text or `null` |
//! | `listener`, `connection_id`, `tls_version` | text, number, text or `null` |
//! | `downstream_peer_subject` | of the client's certificate, or `null` |
//! | `duration_us`, `request_duration_us`, `response_duration_us` | microseconds; the last two may be `null` |

use std::net::SocketAddr;

use super::record::Record;
use super::{escape, timestamp};
use crate::proto::head::Known;

/// Appends the object, without a line feed.
pub(super) fn write(record: &Record<'_>, out: &mut Vec<u8>) {
    let request = record.request;
    let field = |name: Known| request.and_then(|head| head.headers.get(&name));

    out.extend_from_slice(b"{\"start_time\":\"");
    timestamp::rfc3339_ms(record.start_unix_us, out);
    out.push(b'"');
    let mut object = Object { out };
    object.text("method", request.map(|head| head.method.as_str().as_bytes()));
    object.text("path", record.client_target());
    object.text("protocol", record.protocol.map(|version| version.as_str().as_bytes()));
    object.number("response_code", Some(record.status.into()));
    object.key("response_flags").push(b'"');
    record.flags.write(object.out);
    object.out.push(b'"');
    object.text("response_code_details", record.details.map(str::as_bytes));
    object.text("upstream_transport_failure_reason", record.upstream_failure.map(str::as_bytes));
    object.number("bytes_received", Some(record.bytes_received));
    object.number("bytes_sent", Some(record.bytes_sent));
    object.number("duration", Some(record.duration_us / 1000));
    object.number("upstream_service_time", record.upstream_service_us.map(|us| us / 1000));
    object.text("x_forwarded_for", field(Known::XForwardedFor));
    object.text("user_agent", field(Known::UserAgent));
    object.text("request_id", record.request_id());
    object.text("authority", record.authority());
    object.number("upstream_attempts", Some(record.upstream_attempts.into()));
    object.address("upstream_host", record.upstream_host);
    object.text("upstream_cluster", record.upstream_cluster.map(str::as_bytes));
    object.address("upstream_local_address", record.upstream_local);
    object.address("downstream_local_address", Some(record.downstream_local));
    object.address("downstream_remote_address", Some(record.client()));
    object.text("requested_server_name", record.sni.map(str::as_bytes));
    object.text("route_name", record.route.map(str::as_bytes));
    object.text("listener", Some(record.listener.as_bytes()));
    object.number("connection_id", Some(record.connection_id));
    object.text("tls_version", record.tls_version.map(str::as_bytes));
    object.text("downstream_peer_subject", record.identity.map(|identity| identity.subject.as_bytes()));
    object.number("duration_us", Some(record.duration_us));
    object.number("request_duration_us", record.request_duration_us);
    object.number("response_duration_us", record.response_duration_us);
    object.out.push(b'}');
}

struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl Object<'_> {
    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn text(&mut self, name: &str, value: Option<&[u8]>) {
        let out = self.key(name);
        match value {
            Some(value) => escape::json(value, out),
            None => out.extend_from_slice(b"null"),
        }
    }

    fn number(&mut self, name: &str, value: Option<u64>) {
        let out = self.key(name);
        match value {
            Some(value) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
    }

    fn address(&mut self, name: &str, value: Option<SocketAddr>) {
        let out = self.key(name);
        match value {
            Some(value) => {
                out.push(b'"');
                super::format::address(value, out);
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::samples;
    use super::*;
    use proptest::prelude::*;

    fn line(record: &Record<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        write(record, &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn every_member_is_there_with_its_value() {
        let (request, response) = (samples::request(), samples::response());
        assert_eq!(
            line(&samples::record(&request, &response)),
            serde_json::json!({
                "start_time": "2024-02-29T12:34:56.007Z",
                "method": "POST", "path": "/v1/items?id=7", "protocol": "HTTP/1.1",
                "response_code": 503, "response_flags": "URX,UF",
                "response_code_details": "upstream_reset_before_response_started{remote_connection_failure}",
                "upstream_transport_failure_reason": null,
                "bytes_received": 11, "bytes_sent": 95, "duration": 12, "upstream_service_time": 9,
                "x_forwarded_for": "203.0.113.9", "user_agent": "curl/8.5.0",
                "request_id": "6c4b7b0e-1f0a-4d6e-9d5b-2f6f2f9a1c11", "authority": "api.example.com",
                "upstream_attempts": 3,
                "upstream_host": "10.0.0.1:8080", "upstream_cluster": "api", "upstream_local_address": null,
                "downstream_local_address": "[2001:db8::1]:443", "downstream_remote_address": "203.0.113.9:0",
                "requested_server_name": "api.example.com", "route_name": "api-v1",
                "listener": "web", "connection_id": 42, "tls_version": "TLSv1.3",
                "downstream_peer_subject": "O=x,CN=\\\"client\\\"",
                "duration_us": 12345, "request_duration_us": 1500, "response_duration_us": 11999,
            })
        );
    }

    #[test]
    fn an_unreadable_request_has_the_same_members() {
        let (request, response) = (samples::request(), samples::response());
        let members = |value: serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let unreadable = line(&samples::unreadable());
        assert_eq!(unreadable["method"], serde_json::Value::Null);
        assert_eq!(unreadable["response_flags"], "-");
        assert_eq!(members(unreadable), members(line(&samples::record(&request, &response))));
    }

    proptest! {
        #[test]
        fn a_line_always_parses_and_has_no_control_character(
            agent: Vec<u8>, target: Vec<u8>, authority: Vec<u8>, details: String, sni: String,
        ) {
            let (mut request, response) = (samples::request(), samples::response());
            request.headers.set(&Known::UserAgent, &agent);
            request.target.clone_from(&target);
            request.authority = authority;
            let mut record = samples::record(&request, &response);
            record.original_target = None;
            record.details = Some(&details);
            record.sni = Some(&sni);
            let mut out = Vec::new();
            write(&record, &mut out);
            let text = String::from_utf8(out).unwrap();
            prop_assert!(!text.chars().any(char::is_control));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(value["user_agent"].as_str().unwrap(), String::from_utf8_lossy(&agent));
            prop_assert_eq!(value["path"].as_str().unwrap(), String::from_utf8_lossy(&target));
            prop_assert_eq!(value["requested_server_name"].as_str().unwrap(), sni);
        }
    }
}
