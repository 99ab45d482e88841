//! gRPC's health service, `grpc.health.v1.Health` (`grpc/health/v1/health.proto`), as its clients need it.

use bytes::Bytes;
use prost::{Enumeration, Message};

use super::grpc;

/// The path of the call that asks once.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Longest text of a server that is repeated in a log.
const TEXT_CHARS: usize = 200;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HealthCheckRequest {
    /// Whose health is asked for; empty is the server's as a whole.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct HealthCheckResponse {
    /// How it is.
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum ServingStatus {
    /// None was given.
    Unknown = 0,
    /// It is well.
    Serving = 1,
    /// It is not.
    NotServing = 2,
    /// Only in answers of `Watch`.
    ServiceUnknown = 3,
}

/// The body of a call of [`CHECK`].
pub fn request(service: &str) -> Bytes {
    grpc::encode_frame(&HealthCheckRequest { service: service.to_owned() })
}

/// A whole answer to [`CHECK`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub http_status: u16,
    /// `content-type`
    pub content_type: &'a [u8],
    /// `grpc-status`, of the trailers or, where the head is all there is, of the head.
    pub grpc_status: Option<&'a [u8]>,
    /// `grpc-message`, from the same place.
    pub grpc_message: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// Whether it says `SERVING`; if not, what it says.
    pub fn verdict(&self) -> Result<(), String> {
        if self.http_status != 200 {
            return Err(format!("HTTP status {}", self.http_status));
        }
        if !grpc::is_grpc(self.content_type) {
            return Err(format!("content-type \"{}\", which is not gRPC's", text(self.content_type)));
        }
        match self.grpc_status {
            None => Err("no grpc-status: the answer is not whole".into()),
            Some(b"0") => self.serving(),
            Some(status) => Err(self.failure(status)),
        }
    }

    fn serving(&self) -> Result<(), String> {
        let Some(response) = grpc::decode_frame::<HealthCheckResponse>(self.body) else {
            return Err("something else than one HealthCheckResponse".into());
        };
        match ServingStatus::try_from(response.status) {
            Ok(ServingStatus::Serving) => Ok(()),
            Ok(ServingStatus::Unknown) => Err("UNKNOWN".into()),
            Ok(ServingStatus::NotServing) => Err("NOT_SERVING".into()),
            Ok(ServingStatus::ServiceUnknown) => Err("SERVICE_UNKNOWN".into()),
            Err(_) => Err(format!("status {}, which does not exist", response.status)),
        }
    }

    fn failure(&self, status: &[u8]) -> String {
        let meaning = match status {
            b"5" => " (NOT_FOUND): it does not know this service",
            b"12" => " (UNIMPLEMENTED): it has no grpc.health.v1.Health",
            _ => "",
        };
        let message = match self.grpc_message {
            [] => String::new(),
            message => format!(", \"{}\"", text(message)),
        };
        format!("grpc-status {}{meaning}{message}", text(status))
    }
}

/// Bytes of a server as they may stand in a line of a log.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(TEXT_CHARS).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_responses_have_the_bytes_that_protobuf_says() {
        assert_eq!(&*request(""), b"\0\0\0\0\0");
        assert_eq!(&*request("a.B"), b"\0\0\0\0\x05\x0a\x03a.B");
        let response = HealthCheckResponse { status: ServingStatus::NotServing.into() };
        assert_eq!(&*grpc::encode_frame(&response), b"\0\0\0\0\x02\x08\x02");
    }

    #[test]
    fn serving_is_the_only_good_answer_and_all_others_say_what_is_wrong() {
        let serving: &[u8] = b"\0\0\0\0\x02\x08\x01";
        let good = Answer {
            http_status: 200,
            content_type: b"application/grpc+proto",
            grpc_status: Some(b"0"),
            grpc_message: b"",
            body: serving,
        };
        let failed = |status: &'static [u8], message: &'static [u8]| Answer {
            grpc_status: Some(status),
            grpc_message: message,
            body: b"",
            ..good
        };
        let long = [b'x'; 10 * TEXT_CHARS];
        let cases = [
            (good, Ok(())),
            (Answer { body: b"\0\0\0\0\x04\x08\x01\x10\x07", ..good }, Ok(())),
            (Answer { body: b"\0\0\0\0\x02\x08\x02", ..good }, Err("NOT_SERVING")),
            (Answer { body: b"\0\0\0\0\x02\x08\x03", ..good }, Err("SERVICE_UNKNOWN")),
            (Answer { body: b"\0\0\0\0\x02\x08\x09", ..good }, Err("status 9, which does not exist")),
            (Answer { body: b"\0\0\0\0\0", ..good }, Err("UNKNOWN")),
            (Answer { body: b"", ..good }, Err("something else than one HealthCheckResponse")),
            (Answer { body: b"\x01\0\0\0\x02\x08\x01", ..good }, Err("something else than one HealthCheckResponse")),
            (Answer { body: &[serving, serving].concat(), ..good }, Err("something else than one HealthCheckResponse")),
            (Answer { grpc_status: None, ..good }, Err("no grpc-status: the answer is not whole")),
            (Answer { grpc_status: Some(b"00"), ..good }, Err("grpc-status 00")),
            (Answer { http_status: 503, ..good }, Err("HTTP status 503")),
            (Answer { content_type: b"text/html", ..good }, Err("content-type \"text/html\", which is not gRPC's")),
            (Answer { content_type: b"", ..good }, Err("content-type \"\", which is not gRPC's")),
            (failed(b"12", b""), Err("grpc-status 12 (UNIMPLEMENTED): it has no grpc.health.v1.Health")),
            (
                failed(b"5", b"unknown service"),
                Err("grpc-status 5 (NOT_FOUND): it does not know this service, \"unknown service\""),
            ),
            (failed(b"14", b"a\nb"), Err("grpc-status 14, \"a\\nb\"")),
        ];
        for (answer, expected) in cases {
            assert_eq!(answer.verdict(), expected.map_err(str::to_owned), "{answer:?}");
        }
        let noisy = Answer { content_type: &long, ..good }.verdict().unwrap_err();
        assert!(noisy.len() < 2 * TEXT_CHARS, "{} bytes", noisy.len());
    }
}
