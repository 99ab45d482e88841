//! A request to the admin endpoint of a running gateway.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the gateway may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer: all bans there may be.
const ANSWER_MAX: u64 = 64 << 20;

/// Where the admin endpoint is.
#[derive(Debug, clap::Args)]
pub struct Admin {
    /// The admin endpoint's address.
    #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDRESS")]
    admin: SocketAddr,
}

impl Admin {
    /// The body of a good answer, or what went wrong in a line.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let address = self.admin;
        let failed = |error: std::io::Error| {
            format!("no answer from {address}: {error}; is the gateway running, and is this its `admin.address`?")
        };
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(failed)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut answer).map_err(failed)?;
        body_of(&answer).ok_or_else(|| format!("{address} does not speak as a gateway's admin endpoint"))?
    }
}

/// The endpoint gives each answer a length and closes the connection after it, so the body is all that follows the head.
fn body_of(answer: &str) -> Option<Result<String, String>> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    Some(if status == "200" { Ok(body.to_owned()) } else { Err(body.trim_end().to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_body_or_an_error() {
        let cases = [
            ("HTTP/1.1 200 OK\r\na: b\r\n\r\n[]\n", Some(Ok("[]\n"))),
            ("HTTP/1.1 404 Not Found\r\n\r\nno such ban\n", Some(Err("no such ban"))),
            ("SSH-2.0-OpenSSH\r\n", None),
            ("", None),
        ];
        for (answer, expected) in cases {
            let expected = expected.map(|result: Result<&str, &str>| result.map(str::to_owned).map_err(str::to_owned));
            assert_eq!(body_of(answer), expected, "{answer}");
        }
    }
}
