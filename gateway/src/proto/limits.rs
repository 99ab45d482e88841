//! Every limit that is not configured, with the reason for its number.

/// Most fields a head may have whatever the configuration says: the parser's slots are on the stack (32 KiB).
pub const HEADER_COUNT_MAX: usize = 1024;

/// Longest head whatever the configuration says: Envoy's largest `max_request_headers_kb`. Offsets into
/// [`Headers`](super::head::Headers) are 32 bits wide.
pub const HEAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Memory that is kept for the next head: what nearly all heads need. A longer one is allocated for and then given back,
/// so that what is kept for thousands of requests is not for each the longest head it ever saw.
pub const KEPT_HEAD_BYTES: usize = 4 * 1024;

/// Longest field name. [`Headers`](super::head::Headers) keeps the length in 16 bits: a longer name would come out cut
/// short, as another name. 1 KiB is far above any name in use.
pub const FIELD_NAME_BYTES: usize = 1024;

/// Longest host: a DNS name has at most 255 octets (RFC 1035 §2.3.4, RFC 3986 §3.2.2).
pub const HOST_BYTES: usize = 255;

/// Hex digits of a chunk size. RFC 9112 §7.1: "recipients MUST anticipate potentially large hexadecimal numerals and
/// prevent parsing errors due to integer conversion overflows"; sixteen fill 64 bits.
pub const CHUNK_SIZE_DIGITS: u8 = 16;

/// Bytes of chunk extensions that no payload has paid for. Each payload byte pays for two. Without this a sender makes
/// the gateway read without end for one byte of body (CVE-2023-39326); RFC 9112 §7.1.1 asks for such a limit.
pub const CHUNK_EXTENSION_BYTES: u64 = 4 * 1024;

/// Bytes of a trailer section. RFC 9110 §5.4 lets a recipient limit it; real ones (gRPC status, digests) are short.
pub const TRAILER_BYTES: usize = 8 * 1024;

/// Fields of a trailer section.
pub const TRAILER_COUNT: usize = 64;

/// Head of an origin's response: Envoy's default for `max_response_headers_kb` is the same 60 KiB as for requests.
pub const RESPONSE_HEAD_BYTES: usize = 60 * 1024;

/// Fields of an origin's response. Origins are trusted more than clients, and some set dozens of cookies.
pub const RESPONSE_HEADER_COUNT: usize = 200;

/// A call of the rate limit service. Envoy builds a descriptor or two of short values; this has room for hundreds.
pub const RATE_LIMIT_REQUEST_BYTES: usize = 64 * 1024;
/// Connections that wait to be accepted, at each socket: what the kernel allows at most unless it is told otherwise
/// (`net.core.somaxconn`).
pub const BACKLOG: u32 = 4096;

/// Bytes of an unwanted request body that are read and thrown away after a refusal, so that the client gets to read the
/// answer before its connection is reset (RFC 9112 §9.6). nginx calls this lingering close.
pub const LINGER_BYTES: usize = 1024 * 1024;

/// How long that may take: Envoy's `delayed_close_timeout`.
pub const LINGER_MS: u64 = 1_000;

/// How long an idle connection may still bring a request once its listener is closing, so that a request that is on its
/// way is answered and not reset.
pub const CLOSING_IDLE_MS: u64 = 500;

/// A ClientHello with the headers of its records: what rustls takes of a handshake message. Key shares of post-quantum
/// algorithms, ECH and session tickets make real ones a few KiB; a session ticket may have 64 KiB, but no server makes
/// such.
pub const CLIENT_HELLO_BYTES: usize = 64 * 1024;

/// Protocols that a ClientHello may offer. Browsers offer two or three; 64 KiB of one-byte names would be 32 768, each
/// with an allocation of its own.
pub const ALPN_COUNT: usize = 64;

/// A PROXY header of version 1, CRLF included: the longest its specification allows (§2.1).
pub const PROXY_V1_BYTES: usize = 107;

/// A PROXY header of version 2. Its length field allows 64 KiB; the addresses need at most 216 bytes, and what is left
/// has room for a client certificate (`PP2_SUBTYPE_SSL_CLIENT_CERT`) and a subject, the longest things that proxies send.
pub const PROXY_V2_BYTES: usize = 8 * 1024;
