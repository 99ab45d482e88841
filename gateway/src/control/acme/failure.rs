//! Why there is no certificate.

use std::fmt;

use instant_acme::{Error, Problem};

use super::schedule::Fault;
use crate::control::store::StoreError;

/// Why there is no certificate.
#[derive(Debug)]
pub struct Failure {
    /// Whose fault it was.
    pub fault: Fault,
    /// In words.
    pub reason: String,
    /// What follows from it beyond this certificate.
    pub about: About,
}

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// This one order.
    Order,
    /// The authority does not know the account that we have.
    Account,
    /// The authority is asked too often (RFC 8555 section 6.6).
    Rate,
}

impl Failure {
    /// Someone's fault.
    pub fn new(fault: Fault, reason: String) -> Failure {
        Failure { fault, reason, about: About::Order }
    }

    /// The authority does not want it.
    pub fn refused(reason: String) -> Failure {
        Failure::new(Fault::Refused, reason)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::Api(problem) => problem.r#type.as_deref().unwrap_or_default(),
            _ => "",
        };
        let is = |name: &str| kind.strip_prefix("urn:ietf:params:acme:error:") == Some(name);
        let fault = match &error {
            Error::Api(Problem { status: Some(500..), .. }) => Fault::Away,
            Error::Api(_) if !is("serverInternal") && !is("badNonce") => Fault::Refused,
            Error::Unsupported(_) => Fault::Refused,
            // What is no JSON may be the page of a proxy in front of the authority.
            _ => Fault::Away,
        };
        let is_rate = is("rateLimited") || matches!(&error, Error::Api(Problem { status: Some(429), .. }));
        let about = match is("accountDoesNotExist") {
            true => About::Account,
            false if is_rate => About::Rate,
            false => About::Order,
        };
        Failure { fault, about, reason: error.to_string() }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::new(Fault::Away, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_says_is_about_the_order_the_account_or_how_often_it_is_asked() {
        let urn = "urn:ietf:params:acme:error:";
        for (problem, about, fault) in [
            (format!(r#"{{"type":"{urn}rateLimited","status":429}}"#), About::Rate, Fault::Refused),
            (r#"{"status":429}"#.to_owned(), About::Rate, Fault::Refused),
            (format!(r#"{{"type":"{urn}accountDoesNotExist","status":400}}"#), About::Account, Fault::Refused),
            (format!(r#"{{"type":"{urn}unauthorized","status":403}}"#), About::Order, Fault::Refused),
            (format!(r#"{{"type":"{urn}serverInternal","status":500}}"#), About::Order, Fault::Away),
            (r#"{"status":503}"#.to_owned(), About::Order, Fault::Away),
        ] {
            let failure = Failure::from(Error::Api(serde_json::from_str(&problem).unwrap()));
            assert_eq!((failure.about, failure.fault), (about, fault), "{problem}");
        }
    }
}
