//! Why there is no certificate.

use std::fmt;

use instant_acme::Error;

use super::schedule::Fault;
use crate::control::store::StoreError;

/// Why there is no certificate.
#[derive(Debug)]
pub struct Failure {
    /// Whose fault it was.
    pub fault: Fault,
    /// In words.
    pub reason: String,
    /// The authority does not know the account that we have.
    pub is_unknown_account: bool,
}

impl Failure {
    /// Someone's fault.
    pub fn new(fault: Fault, reason: String) -> Failure {
        Failure { fault, reason, is_unknown_account: false }
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
            Error::Api(_) if !is("serverInternal") && !is("badNonce") => Fault::Refused,
            Error::Unsupported(_) => Fault::Refused,
            // What is no JSON may be the page of a proxy in front of the authority.
            _ => Fault::Away,
        };
        Failure { fault, is_unknown_account: is("accountDoesNotExist"), reason: error.to_string() }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::new(Fault::Away, error.to_string())
    }
}
