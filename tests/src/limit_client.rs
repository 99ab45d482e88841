//! A client of `envoy.service.ratelimit.v3.RateLimitService`, over HTTP/2 in the clear.

use std::net::SocketAddr;

use gateway::proto::grpc;
use gateway::proto::rate_limit_service::{
    Code, Entry, RateLimitDescriptor, RateLimitRequest, RateLimitResponse, SHOULD_RATE_LIMIT,
};

use crate::client::Response;
use crate::h2::Client;

/// The fields of a gRPC call.
pub const CALL: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// A client with one connection.
#[derive(Debug)]
pub struct LimitClient(Client);

impl LimitClient {
    /// Connects.
    pub fn connect(addr: SocketAddr) -> LimitClient {
        LimitClient(Client::connect(addr))
    }

    /// Asks about descriptors (`key=value,key=value`) of the domain `edge`.
    ///
    /// # Panics
    /// When there is no good answer.
    pub fn ask(&self, descriptors: &[&str]) -> RateLimitResponse {
        let response = self.call(SHOULD_RATE_LIMIT, &grpc::encode_frame(&question(descriptors)));
        let status =
            response.trailers.iter().find(|(name, _)| name == "grpc-status").map(|(_, status)| status.as_str());
        assert_eq!((response.status, status), (200, Some("0")), "{response:?}");
        assert_eq!(response.header("content-type"), Some("application/grpc"));
        grpc::decode_frame(&response.body).expect("a RateLimitResponse")
    }

    /// Whether the descriptor is within its limit.
    pub fn is_within(&self, descriptor: &str) -> bool {
        self.ask(&[descriptor]).overall_code() == Code::Ok
    }

    /// Any call.
    pub fn call(&self, path: &str, body: &[u8]) -> Response {
        self.0.ask("POST", path, &CALL, body)
    }
}

/// A question about descriptors of the domain `edge`.
pub fn question(descriptors: &[&str]) -> RateLimitRequest {
    let entry = |text: &str| {
        let (key, value) = text.split_once('=').expect("key=value");
        Entry { key: key.into(), value: value.into() }
    };
    let descriptor = |text: &&str| {
        let entries = text.split(',').map(entry).collect();
        RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }
    };
    let descriptors = descriptors.iter().map(descriptor).collect();
    RateLimitRequest { domain: "edge".into(), descriptors, hits_addend: 0 }
}
