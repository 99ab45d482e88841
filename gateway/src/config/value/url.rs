//! How URLs are written.

use http::Uri;

use super::schema;
use crate::config::decode::{FromText, Problem};
use crate::config::model::Webhook;

/// `"https://ops.example.com/hook"`: where something is posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(pub Webhook);

schema!(HttpUrl, "URL", { "type": "string", "pattern": "^https?://" });

impl FromText for HttpUrl {
    fn from_text(text: &str) -> Result<Self, Problem> {
        // The text is not repeated: there may be a secret in it.
        let wrong = || Problem::new("not a URL of http or https", "for example \"https://ops.example.com/hook\"");
        if let Some(at) = text.find('#') {
            return Err(Problem::new("a fragment is never sent to a server", "leave it out").at(at..text.len()));
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(Problem::new("credentials in a URL are not sent", "leave out what is before the @"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // What is behind the host and no number would be ignored.
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(0) => return Err(wrong()),
            None if has_port || host.is_empty() => return Err(wrong()),
            port => port.unwrap_or(if is_tls { 443 } else { 80 }),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(HttpUrl(Webhook { is_tls, host, port, path, ca_pem: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_or_refused() {
        let cases = [
            ("https://ops.example.com/hook", Some(("https://ops.example.com:443", "ops.example.com", "/hook"))),
            ("http://Ops.example.com", Some(("http://ops.example.com:80", "ops.example.com", "/"))),
            ("https://[::1]:8443/a?b=c", Some(("https://[::1]:8443", "[::1]:8443", "/a?b=c"))),
            ("HTTP://10.0.0.1:80/", Some(("http://10.0.0.1:80", "10.0.0.1", "/"))),
            ("https://ops.example.com:0/", None),
            ("https://ops.example.com:99999/", None),
            ("https://ops.example.com:/", None),
            ("https://user:secret@ops.example.com/", None),
            ("https://ops.example.com/#a", None),
            ("ftp://ops.example.com/", None),
            ("ops.example.com/hook", None),
            ("/hook", None),
            ("https://", None),
            ("https:///hook", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let url = HttpUrl::from_text(text).ok().map(|url| url.0);
            let shown = url.as_ref().map(|url| (url.origin(), url.authority(), url.path.clone()));
            let expected = expected.map(|(origin, host, path)| (origin.to_owned(), host.to_owned(), path.to_owned()));
            assert_eq!(shown, expected, "{text}");
            assert!(!format!("{url:?}").contains("/hook"), "{url:?}");
        }
    }
}
