//! How values of balancing are written.

use super::schema;
use crate::config::decode::{FromText, Problem, keywords};
use crate::config::model::{Balance, SubsetFallback};
use crate::proto::head::is_token_byte;

keywords!(Balance {
    "round_robin" => Balance::RoundRobin,
    "least_request" => Balance::LeastRequest,
    "random" => Balance::Random,
    "ring_hash" => Balance::RingHash,
    "maglev" => Balance::Maglev,
});

keywords!(SubsetFallback { "none" => SubsetFallback::None, "any" => SubsetFallback::Any });

/// The name of a cookie, or of an attribute of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(pub String);

schema!(CookieName, "cookie name", { "type": "string", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" });

impl FromText for CookieName {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if text.is_empty() || !text.bytes().all(is_token_byte) {
            let help = "letters, digits and !#$%&'*+-.^_`|~ (RFC 6265 section 4.1.1)";
            return Err(Problem::new(format!("{text:?} cannot be the name of a cookie"), help));
        }
        Ok(CookieName(text.to_owned()))
    }
}

/// The value of an attribute of a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieText(pub String);

schema!(CookieText, "cookie attribute", { "type": "string", "pattern": "^[ -:<-~]*$" });

impl FromText for CookieText {
    fn from_text(text: &str) -> Result<Self, Problem> {
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b';') {
            return Ok(CookieText(text.to_owned()));
        }
        let help = "ASCII without control characters and `;`, which would begin another attribute";
        Err(Problem::new(format!("{text:?} cannot be in a cookie's attribute"), help))
    }
}
