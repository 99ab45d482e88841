//! Why a head was refused, and how to say so.

/// Why a request head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// No request line, or a field that is not one: whitespace before the colon, obs-fold, a control byte.
    Malformed,
    /// A line that ends in LF alone.
    BareLf,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    Version,
    /// The request line alone is longer than the limit.
    TargetTooLong,
    /// More bytes of head than the limit, or a field name that is too long.
    TooLarge,
    /// More fields than the limit.
    TooManyFields,
    /// A target in none of the forms of RFC 9112 §3.2, or with a byte that no URI has.
    Target,
    /// CONNECT, which the gateway does not do.
    Connect,
    /// No `Host` (RFC 9112 §3.2).
    NoHost,
    /// More than one `Host` (RFC 9112 §3.2).
    ManyHosts,
    /// A `Host` or authority that is not `host[:port]`.
    Host,
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    Expectation,
    /// The body's length is in doubt.
    Framing(FramingError),
}

/// Why a response head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// No status line, or a field that is not one.
    Malformed,
    /// A line that ends in LF alone.
    BareLf,
    /// More bytes or fields than the limits.
    TooLarge,
    /// The body's length is in doubt.
    Framing(FramingError),
}

/// Why a body's length is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingError {
    /// More than one `Content-Length`, be they equal (as Envoy 1.40 decides).
    ManyLengths,
    /// A `Content-Length` that is not a decimal number below 2⁶⁴.
    Length,
    /// `Content-Length` beside `Transfer-Encoding` (RFC 9112 §6.3 rule 3 allows to refuse it).
    LengthAndCoding,
    /// A `Transfer-Encoding` other than exactly `chunked`.
    Coding,
    /// `Transfer-Encoding` in HTTP/1.0, "faulty" by RFC 9112 §6.1.
    CodingInHttp10,
}

impl RequestError {
    /// The status to answer with.
    pub fn status(&self) -> u16 {
        match self {
            RequestError::TargetTooLong => 414,
            RequestError::Expectation => 417,
            RequestError::TooLarge | RequestError::TooManyFields => 431,
            RequestError::Connect | RequestError::Framing(FramingError::Coding) => 501,
            RequestError::Version => 505,
            _ => 400,
        }
    }

    /// The response code detail of the access log; Envoy's where it has one.
    pub fn detail(&self) -> &'static str {
        match self {
            RequestError::Malformed => "http1.codec_error",
            RequestError::BareLf => "http1.bare_lf",
            RequestError::Version => "http1.unsupported_version",
            RequestError::TargetTooLong => "http1.target_too_long",
            RequestError::TooLarge => "http1.headers_too_large",
            RequestError::TooManyFields => "http1.too_many_headers",
            RequestError::Target => "http1.invalid_url",
            RequestError::Connect => "http1.connect_not_supported",
            RequestError::NoHost => "missing_host_header",
            RequestError::ManyHosts => "http1.duplicate_host",
            RequestError::Host => "http1.invalid_host",
            RequestError::Expectation => "http1.unsupported_expectation",
            RequestError::Framing(error) => error.detail(),
        }
    }
}

impl ResponseError {
    /// What the access log says; Envoy's text where it has one.
    pub fn detail(&self) -> &'static str {
        match self {
            ResponseError::Malformed => "http1.codec_error",
            ResponseError::BareLf => "http1.bare_lf",
            ResponseError::TooLarge => "http1.headers_too_large",
            ResponseError::Framing(error) => error.detail(),
        }
    }
}

impl FramingError {
    /// The response code detail; Envoy's where it has one.
    pub fn detail(self) -> &'static str {
        match self {
            FramingError::ManyLengths => "http1.duplicate_content_length",
            FramingError::Length => "http1.invalid_content_length",
            FramingError::LengthAndCoding => "http1.content_length_and_chunked_not_allowed",
            FramingError::Coding => "http1.invalid_transfer_encoding",
            FramingError::CodingInHttp10 => "http1.transfer_encoding_not_allowed",
        }
    }
}

impl From<FramingError> for RequestError {
    fn from(error: FramingError) -> Self {
        RequestError::Framing(error)
    }
}

impl From<FramingError> for ResponseError {
    fn from(error: FramingError) -> Self {
        ResponseError::Framing(error)
    }
}
