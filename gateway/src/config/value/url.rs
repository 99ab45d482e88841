//! How URLs are written.

use http::Uri;

use super::schema;
use crate::config::decode::{FromText, Problem};
use crate::config::model::Webhook;

/// Whom a URL of http or https leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Whether it is https.
    pub is_tls: bool,
    /// In lower case; an address of IPv6 without brackets.
    pub host: String,
    /// `None`: the URL has none.
    pub port: Option<u16>,
    /// What is never sent is in the URL: a name or a password before an `@`.
    pub has_credentials: bool,
}

impl Origin {
    /// `None` for other schemes, and where there is no host or no port that a server could have.
    pub fn of(uri: &Uri) -> Option<Origin> {
        let is_tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let behind = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // What is behind the host and no number would be ignored.
        let has_port = behind.len() > authority.host().len();
        let port = authority.port_u16();
        let is_wrong = host.is_empty() || port == Some(0) || has_port != port.is_some();
        let has_credentials = behind.len() < authority.as_str().len();
        (!is_wrong).then_some(Origin { is_tls, host, port, has_credentials })
    }
}

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
        let Origin { is_tls, host, port, has_credentials } = Origin::of(&uri).ok_or_else(wrong)?;
        if has_credentials {
            return Err(Problem::new("credentials in a URL are not sent", "leave out what is before the @"));
        }
        let port = port.unwrap_or(if is_tls { 443 } else { 80 });
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
