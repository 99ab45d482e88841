//! What a client's connection may ask of the `h2` crate.

use h2::server;

use super::SEND_BUFFER;
use crate::config::model::Http2;

/// Streams the client reset before they were accepted (CVE-2023-44487): as many as the h2 crate keeps by default.
const PENDING_RESETS: usize = 20;

/// Streams that the client's own violations made us reset (MadeYouReset, CVE-2025-8671). No client needs any.
const PROVOKED_RESETS: usize = 100;

/// The server's side of a connection, before its handshake. `header_bytes` is the most a request's head may have after
/// decompression.
pub fn builder(settings: &Http2, header_bytes: u32) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(settings.max_concurrent_streams)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(header_bytes)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(PROVOKED_RESETS))
        .enable_connect_protocol();
    builder
}
