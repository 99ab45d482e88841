use super::super::record::samples;
use super::*;
use crate::proto::head::Known;
use proptest::prelude::*;

fn line(format: &str, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    Format::compile(format).unwrap().write(record, &mut out);
    String::from_utf8(out).unwrap()
}

fn sample_line(format: &str) -> String {
    let (request, response) = (samples::request(), samples::response());
    let mut trailers = Headers::default();
    trailers.append_raw(b"grpc-status", b"14");
    let record = Record { response_trailers: Some(&trailers), ..samples::record(&request, &response) };
    line(format, &record)
}

/// Operator, its text for a full record, its text when nothing is known.
const OPERATORS: &[(&str, &str, &str)] = &[
    ("%START_TIME%", "2024-02-29T12:34:56.007Z", "1970-01-01T00:00:00.000Z"),
    ("%START_TIME()%", "2024-02-29T12:34:56.007Z", "1970-01-01T00:00:00.000Z"),
    ("%START_TIME(%s.%3f)%", "1709210096.007", "0.000"),
    ("%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%", "2024/02/29T12:34:56+0000 1709210096", "1970/01/01T00:00:00+0000 0"),
    ("%REQ(:METHOD)%", "POST", "-"),
    ("%REQ(:PATH)%", "/v2/items?id=7", "-"),
    ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/v1/items?id=7", "-"),
    ("%REQ(:AUTHORITY)%", "api.example.com", "-"),
    ("%REQ(Host)%", "api.example.com", "-"),
    ("%REQ(:SCHEME)%", "https", "-"),
    ("%REQ(X-REQUEST-ID)%", "6c4b7b0e-1f0a-4d6e-9d5b-2f6f2f9a1c11", "-"),
    ("%REQ(x-tenant)%", "blue", "-"),
    ("%REQ(X-NONE?X-TENANT)%", "blue", "-"),
    ("%REQ(X-NONE?X-NEITHER)%", "-", "-"),
    ("%REQ(USER-AGENT):4%", "curl", "-"),
    ("%REQ(X-NONE?USER-AGENT):6%", "curl/8", "-"),
    ("%RESP(SERVER)%", "gateway", "-"),
    ("%RESP(:STATUS)%", "503", "0"),
    ("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "9", "-"),
    ("%RESP(X-NONE?CONTENT-TYPE):4%", "text", "-"),
    ("%TRAILER(GRPC-STATUS)%", "14", "-"),
    ("%PROTOCOL%", "HTTP/1.1", "-"),
    ("%RESPONSE_CODE%", "503", "0"),
    ("%RESPONSE_FLAGS%", "URX,UF", "-"),
    ("%RESPONSE_CODE_DETAILS%", "upstream_reset_before_response_started{remote_connection_failure}", "-"),
    ("%BYTES_RECEIVED%", "11", "0"),
    ("%BYTES_SENT%", "95", "0"),
    ("%DURATION%", "12", "0"),
    ("%REQUEST_DURATION%", "1", "-"),
    ("%RESPONSE_DURATION%", "11", "-"),
    ("%UPSTREAM_HOST%", "10.0.0.1:8080", "-"),
    ("%UPSTREAM_REMOTE_ADDRESS%", "10.0.0.1:8080", "-"),
    ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1", "-"),
    ("%UPSTREAM_REMOTE_PORT%", "8080", "-"),
    ("%UPSTREAM_LOCAL_ADDRESS%", "-", "-"),
    ("%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "-", "-"),
    ("%UPSTREAM_LOCAL_PORT%", "-", "-"),
    ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "3", "0"),
    ("%UPSTREAM_CLUSTER%", "api", "-"),
    ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "-", "-"),
    ("%ROUTE_NAME%", "api-v1", "-"),
    ("%DOWNSTREAM_REMOTE_ADDRESS%", "203.0.113.9:0", "192.0.2.33:55555"),
    ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "203.0.113.9", "192.0.2.33"),
    ("%DOWNSTREAM_REMOTE_PORT%", "0", "55555"),
    ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "192.0.2.33:55555", "192.0.2.33:55555"),
    ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", "192.0.2.33", "192.0.2.33"),
    ("%DOWNSTREAM_DIRECT_REMOTE_PORT%", "55555", "55555"),
    ("%DOWNSTREAM_LOCAL_ADDRESS%", "[2001:db8::1]:443", "127.0.0.1:80"),
    ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "2001:db8::1", "127.0.0.1"),
    ("%DOWNSTREAM_LOCAL_PORT%", "443", "80"),
    ("%REQUESTED_SERVER_NAME%", "api.example.com", "-"),
    ("%DOWNSTREAM_TLS_VERSION%", "TLSv1.3", "-"),
    ("%DOWNSTREAM_PEER_SUBJECT%", r"O=x,CN=\x5C\x22client\x5C\x22", "-"),
    ("%DOWNSTREAM_PEER_ISSUER%", "CN=ca", "-"),
    ("%DOWNSTREAM_PEER_SERIAL%", "0a", "-"),
    ("%DOWNSTREAM_PEER_FINGERPRINT_256%", "abababababababababababababababababababababababababababababababab", "-"),
    ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://td/a", "-"),
    ("%DOWNSTREAM_PEER_DNS_SAN%", "a.test,b.test", "-"),
    ("%CONNECTION_ID%", "42", "0"),
    ("%STREAM_ID%", "6c4b7b0e-1f0a-4d6e-9d5b-2f6f2f9a1c11", "-"),
    ("%HOSTNAME%", "edge-1", "edge-1"),
    ("%%", "%", "%"),
    ("100%% [%PROTOCOL%]\n", "100% [HTTP/1.1]", "100% [-]"),
    ("", "", ""),
];

#[test]
fn every_operator_writes_its_value_or_a_dash() {
    for (format, full, empty) in OPERATORS {
        assert_eq!(sample_line(format), *full, "{format}");
        assert_eq!(line(format, &samples::unreadable()), *empty, "{format} of an unreadable request");
    }
}

#[test]
fn no_operator_is_untested() {
    let named = |name: &str| OPERATORS.iter().any(|(format, ..)| format.starts_with(&format!("%{name}")));
    for name in PLAIN.iter().map(|(name, _)| *name).chain(WITH_ARGUMENT) {
        assert!(named(name), "%{name}% is in no case above");
    }
}

#[test]
fn the_default_line_is_that_of_envoy() {
    assert_eq!(
        sample_line(DEFAULT_FORMAT),
        r#"[2024-02-29T12:34:56.007Z] "POST /v1/items?id=7 HTTP/1.1" 503 URX,UF 11 95 12 9 "203.0.113.9" "#.to_owned()
            + r#""curl/8.5.0" "6c4b7b0e-1f0a-4d6e-9d5b-2f6f2f9a1c11" "api.example.com" "10.0.0.1:8080""#
    );
}

#[test]
fn a_bad_format_says_where_and_what_to_write() {
    for (format, at, message) in [
        ("%PROTOCOL", 0, "this '%' begins no operator; write %% for a percent sign"),
        ("50% of", 2, "this '%' begins no operator; write %% for a percent sign"),
        ("a %PROTOCL%", 2, "unknown operator %PROTOCL%; did you mean %PROTOCOL%?"),
        ("%response_code%", 0, "unknown operator %response_code%; did you mean %RESPONSE_CODE%?"),
        ("%QQQ%", 0, "unknown operator %QQQ%"),
        ("%REQ%", 0, "%REQ% needs a header's name: %REQ(NAME)%"),
        ("%REQ()%", 0, "'' is no header name"),
        ("%REQ(A B)%", 0, "'A B' is no header name"),
        ("%REQ(:STATUS)%", 0, ":STATUS is not a pseudo-header of this message"),
        ("%REQ(X", 0, "%REQ( has no closing ')'"),
        ("%REQ(X):abc%", 0, "':abc' is no number of bytes"),
        ("%REQ(X)abc%", 0, "this '%' begins no operator; write %% for a percent sign"),
        ("%PROTOCOL(X)%", 0, "%PROTOCOL% takes no argument"),
        ("%PROTOCOL:5%", 0, "%PROTOCOL% cannot be cut: ':' goes with REQ, RESP and TRAILER"),
        (
            "%START_TIME(%Q)%",
            0,
            "%START_TIME(%Q)%: %Q is no time specifier, such as %Y, %H, %3f; write %% for a percent sign",
        ),
    ] {
        let error = Format::compile(format).expect_err(format);
        assert_eq!(error, FormatError { at, message: message.to_owned() }, "{format}");
    }
    assert_eq!(Format::compile("ab%x").unwrap_err().to_string().split(':').next(), Some("column 3"));
}

#[test]
fn a_client_cannot_set_the_original_path_itself() {
    let (mut request, response) = (samples::request(), samples::response());
    request.headers.set(&Known::XEnvoyOriginalPath, b"/forged");
    let record = Record { original_target: None, ..samples::record(&request, &response) };
    assert_eq!(line("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", &record), "/v2/items?id=7");
}

proptest! {
    #[test]
    fn a_line_never_contains_a_control_character_or_a_quote_of_the_client(
        agent: Vec<u8>, target: Vec<u8>, authority: Vec<u8>, request_id: Vec<u8>, cut in 0_usize..40,
    ) {
        let (mut request, response) = (samples::request(), samples::response());
        request.headers.set(&Known::UserAgent, &agent);
        request.target = target;
        request.authority = authority;
        let record = Record {
            original_target: None, request_id: Some(&request_id), ..samples::record(&request, &response)
        };
        let format = format!("{DEFAULT_FORMAT} %REQ(USER-AGENT):{cut}%");
        let text = line(&format, &record);
        prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", text);
        prop_assert_eq!(text.bytes().filter(|byte| *byte == b'"').count(), 12);
    }

    #[test]
    fn no_format_string_makes_the_compiler_panic(format in "(%|[A-Z_]{1,12}|REQ|START_TIME|\\(|\\)|:|\\?|[0-9]|é|.)*") {
        let _ = Format::compile(&format);
    }
}
