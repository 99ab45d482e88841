//! How an endpoint of a cluster is chosen: parts of `[[cluster]]`, `[[route]]` and `[[l4_route]]`.

use crate::config::decode::{Decode, Given, Map, Node, Optional, Required, table};
use crate::config::report::Diagnostics;
use crate::config::schema::either_schema;
use crate::config::value::{CookieName, CookieText, Duration, HeaderName, HeaderValue};

table! { "a rule of `hash_on`"
/// What of a request is its key: one of `header`, `cookie`, `query` and `source_ip`.
pub struct HashRule {
    /// The values of this header field.
    #[schemars(extend("examples" = ["x-user-id"]))]
    pub header: Optional<Given<HeaderName>>,
    /// The value of this cookie; a table makes one for clients that have none.
    #[schemars(extend("examples" = ["session"]))]
    pub cookie: Optional<Given<HashCookie>>,
    /// The value of this query parameter, as it is written in the URL.
    #[schemars(extend("examples" = ["user"]))]
    pub query: Optional<Given<String>>,
    /// The client's address, after the headers of trusted proxies.
    #[schemars(extend("examples" = [true]))]
    pub source_ip: Optional<Given<bool>>,
    /// When there is a key by now, the rules behind this one do not count.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub terminal: Optional<bool>,
}
}

/// A cookie's name, or a table for one that the gateway makes.
#[derive(Debug)]
pub enum HashCookie {
    /// One that the origin makes.
    Named(CookieName),
    /// One of our own.
    Table(CookieTable),
}

table! { "`cookie` of a rule of `hash_on`"
/// A cookie that clients get that have none. It is always `HttpOnly`.
pub struct CookieTable {
    /// Its name.
    #[schemars(extend("examples" = ["session"]))]
    pub name: Required<CookieName>,
    /// `Max-Age`; without it the cookie lasts as long as the browser runs.
    #[schemars(extend("examples" = ["1h"]))]
    pub ttl: Optional<Duration>,
    /// `Path`.
    #[schemars(extend("examples" = ["/"]))]
    pub path: Optional<CookieText>,
    /// Further attributes; one with an empty value is its name alone.
    #[schemars(extend("default" = {}, "examples" = [{"SameSite": "Lax", "Secure": ""}]))]
    pub attributes: Optional<Map<CookieText>>,
}
}

impl Decode for HashCookie {
    fn decode(node: Node<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        match node.is_table() {
            true => CookieTable::decode(node, diagnostics).map(HashCookie::Table),
            false => node.read(diagnostics).map(|name| HashCookie::Named(name.value)),
        }
    }
}

either_schema!(HashCookie, CookieName, CookieTable);

table! { "`affinity_cookie` of [[cluster]]"
/// A cookie that names an endpoint, and by which a client comes back to it as long as it is up, or drains. Its value is a
/// keyed hash: it says nothing of addresses, and can only mean endpoints of the cluster. It is always `HttpOnly`. A route
/// with several clusters goes by the cookie too.
pub struct AffinityCookie {
    /// Its name.
    #[schemars(extend("examples" = ["server"]))]
    pub name: Required<CookieName>,
    /// `Max-Age`; without it the cookie lasts as long as the browser runs.
    #[schemars(extend("examples" = ["1h"]))]
    pub ttl: Optional<Duration>,
    /// `Path`.
    #[schemars(extend("examples" = ["/"]))]
    pub path: Optional<CookieText>,
    /// Further attributes; one with an empty value is its name alone.
    #[schemars(extend("default" = {}, "examples" = [{"SameSite": "Lax", "Secure": ""}]))]
    pub attributes: Optional<Map<CookieText>>,
    /// When the endpoint is gone, answer 503. Otherwise another one is chosen, and named by a new cookie.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub strict: Optional<bool>,
    /// The key of the hash. Boxes with the same one understand each other's cookies. Without it the key is the cluster's
    /// name, so that whoever guesses the address of an endpoint can find out whether it is the right one.
    #[schemars(extend("examples" = ["a long random text"]))]
    pub secret: Optional<HeaderValue>,
}
}
