//! Renewals that an operator asks for by the admin endpoint.

use std::collections::BTreeMap;

use serde_json::json;

use super::acme::{NotNow, Renewals};
use crate::config::model::{Certificate, CertificateSource};

/// Which certificates are to be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that are obtained by ACME.
    All,
    /// The one of this name.
    One(String),
}

/// Why nothing is renewed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRenewed {
    /// There is none of the name.
    Unknown(String),
    /// There is, and it cannot be renewed, or not now.
    Refused(String),
}

/// What the admin endpoint asks; see [`renew`].
pub type Renew = dyn Fn(&Which) -> Result<String, NotRenewed> + Send + Sync;

/// Has certificates renewed now. Says as JSON of which a renewal begins, and why of others it does not. Where none
/// begins, that is an error, with a line for each. While the store of a fleet `is_away`, none does: two boxes could
/// order at once.
pub fn renew(
    all: &[Certificate],
    renewals: &Renewals,
    is_away: bool,
    which: &Which,
    now: i64,
) -> Result<String, NotRenewed> {
    let wanted = match which {
        Which::One(name) => vec![obtained(all, name)?],
        Which::All => all.iter().filter_map(by_acme).collect(),
    };
    if is_away && !wanted.is_empty() {
        let why = "nothing is ordered: the certificate store does not work (the log says why)";
        return Err(NotRenewed::Refused(why.into()));
    }
    let mut refused: BTreeMap<&str, NotNow> = BTreeMap::new();
    let mut begun = Vec::new();
    for name in wanted {
        match renewals.ask(name, now) {
            Ok(()) => begun.push(name),
            Err(why) => drop(refused.insert(name, why)),
        }
    }
    match (which, refused.first_key_value()) {
        (Which::One(name), Some((_, why))) => Err(NotRenewed::Refused(format!("certificate \"{name}\": {why}"))),
        (Which::All, None) if begun.is_empty() => Err(NotRenewed::Refused("no certificate is obtained by ACME".into())),
        (Which::All, Some(_)) if begun.is_empty() => {
            let lines: Vec<String> = refused.iter().map(|(name, why)| format!("{name}: not renewed: {why}")).collect();
            Err(NotRenewed::Refused(lines.join("\n")))
        }
        _ => {
            let refused: BTreeMap<_, _> = refused.into_iter().map(|(name, why)| (name, why.to_string())).collect();
            Ok(format!("{}\n", json!({ "begun": begun, "refused": refused })))
        }
    }
}

fn by_acme(certificate: &Certificate) -> Option<&str> {
    match &certificate.source {
        CertificateSource::Acme(_) => Some(&certificate.name),
        _ => None,
    }
}

fn obtained<'c>(all: &'c [Certificate], name: &str) -> Result<&'c str, NotRenewed> {
    let Some(certificate) = all.iter().find(|certificate| certificate.name == name) else {
        let why = format!("there is no certificate \"{name}\"; `gateway certs` lists them");
        return Err(NotRenewed::Unknown(why));
    };
    let instead = match &certificate.source {
        CertificateSource::Acme(_) => return Ok(&certificate.name),
        CertificateSource::Files(_) | CertificateSource::Directory(_) => "it is in files: replace those",
        CertificateSource::Stored(_) => "it is stored in etcd: put a new one there",
    };
    Err(NotRenewed::Refused(format!("certificate \"{name}\" is not obtained by ACME; {instead}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Obtained;

    fn certificates(sources: Vec<(&str, CertificateSource)>) -> Vec<Certificate> {
        let certificate = |(name, source): (&str, CertificateSource)| Certificate {
            name: name.into(),
            source,
            pair: None,
            hosts: Vec::new(),
            http: Default::default(),
        };
        sources.into_iter().map(certificate).collect()
    }

    fn acme() -> CertificateSource {
        CertificateSource::Acme(Obtained { by: "le".into(), hosts: vec!["a.test".into()] })
    }

    #[test]
    fn what_is_obtained_is_renewed_and_everything_else_is_refused_with_the_reason() {
        let renewals = Renewals::default();
        renewals.begin("one", "https://a.test/");
        renewals.begin("two", "https://a.test/");
        let stored = CertificateSource::Stored(Vec::new());
        let one = |name: &str| Which::One(name.into());
        let all = certificates(vec![("one", acme()), ("two", acme()), ("kept", stored)]);
        let ask = |which| renew(&all, &renewals, false, &which, 0);
        for which in [one("one"), Which::All] {
            let told = renew(&all, &renewals, true, &which, 0);
            assert!(matches!(&told, Err(NotRenewed::Refused(why)) if why.contains("does not work")), "{told:?}");
        }
        assert_eq!(ask(one("one")).unwrap(), "{\"begun\":[\"one\"],\"refused\":{}}\n");
        let refused = |name, why: &str| {
            let told = ask(one(name));
            assert!(matches!(&told, Err(NotRenewed::Refused(text)) if text.contains(why)), "{told:?}");
        };
        refused("one", "under way already");
        refused("kept", "stored in etcd");
        assert!(matches!(ask(one("none")), Err(NotRenewed::Unknown(_))));
        let expected = "{\"begun\":[\"two\"],\"refused\":{\"one\":\"a renewal is under way already\"}}\n";
        assert_eq!(ask(Which::All).unwrap(), expected);
        let expected =
            "one: not renewed: a renewal is under way already\ntwo: not renewed: a renewal is under way already";
        assert_eq!(ask(Which::All), Err(NotRenewed::Refused(expected.into())), "nothing has begun");
    }

    #[test]
    fn all_of_none_is_an_error() {
        for is_away in [false, true] {
            let told = renew(&[], &Renewals::default(), is_away, &Which::All, 0);
            assert_eq!(told, Err(NotRenewed::Refused("no certificate is obtained by ACME".into())));
        }
    }
}
