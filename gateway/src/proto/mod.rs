//! Protocols as data: no socket, no clock, no allocation per message once the buffers have grown.

pub mod authority;
pub mod client_cert;
pub mod client_hello;
pub mod cookie;
pub mod date;
pub mod grpc;
pub mod grpc_health;
pub mod h1;
pub mod h2_meter;
pub mod head;
pub mod ip_map;
pub mod limits;
pub mod path;
pub mod proxy_protocol;
pub mod rate_limit_service;
pub mod websocket;
pub mod x509;
