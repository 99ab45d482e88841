//! Certificates that are not in files of the configuration but in the certificate store's directory.

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::acme::date;
use super::store::{CERTIFICATES, Directory, StoreError, segment};
use crate::config::model::{Certificate, Config, Pair};
use crate::config::ocsp::Staple;
use crate::config::{PairError, Refusal};

/// The key at which the pair of a certificate is kept.
pub fn key(certificate: &str) -> String {
    format!("{CERTIFICATES}/{}", segment(certificate))
}

/// What the first line of a certificate that was obtained begins with. PEM lets text stand before it (RFC 7468 section 2).
const ISSUED_BY: &str = "issued-by: ";

/// What is kept of a certificate that was issued by the authority of this directory.
pub fn issued(directory_url: &str, key_and_chain: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("{ISSUED_BY}{directory_url}\n{key_and_chain}"))
}

/// The directory of the authority that has issued what is kept; `None` where that is not said.
pub fn directory_url(bytes: &[u8]) -> Option<&str> {
    let line = bytes.split(|byte| *byte == b'\n').next()?.strip_prefix(ISSUED_BY.as_bytes())?;
    std::str::from_utf8(line).ok()
}

/// An OCSP response in what is kept, between these lines in base64.
const RESPONSE: [&str; 2] = ["-----BEGIN OCSP RESPONSE-----", "-----END OCSP RESPONSE-----"];

/// Why what is kept is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What kind of thing is wrong.
    pub refusal: Refusal,
    /// What is said of it: a sentence without its subject.
    pub why: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<Vec<PairError>> for Unusable {
    fn from(errors: Vec<PairError>) -> Unusable {
        let refusal = errors.first().map_or(Refusal::Unreadable, |error| error.refusal);
        let text = |error: PairError| match error.refusal {
            // There are no two files.
            Refusal::KeyMismatch => "has the key of another certificate".to_owned(),
            _ => error.message,
        };
        Unusable { refusal, why: errors.into_iter().map(text).collect::<Vec<_>>().join("; ") }
    }
}

/// Reads what is kept at a certificate's key: one text with the private key and the chain, and perhaps what is to be stapled.
pub fn parse(bytes: &[u8]) -> Result<Pair, Unusable> {
    with_staple(bytes, None)
}

fn with_staple(bytes: &[u8], ocsp: Option<&[u8]>) -> Result<Pair, Unusable> {
    Ok(Pair::of(bytes, bytes, ocsp)?)
}

/// Why a pair is not to take the place of `own`, if there is that, as with files: it is not valid now, or one of
/// `hosts` that `own` is good for would lose its certificate, or it is for none of them. Other than with files, the first
/// one may be for some of them.
pub fn refusal(pair: &Pair, own: Option<&Pair>, hosts: &[String], now_s: i64) -> Option<Unusable> {
    let unusable = |refusal, why| Some(Unusable { refusal, why });
    if pair.chain_not_after < now_s {
        return unusable(Refusal::Expired, "has expired".to_owned());
    }
    if pair.chain_not_before > now_s && own.is_none_or(|own| own.info.sha256 != pair.info.sha256) {
        return unusable(Refusal::NotYetValid, format!("is not valid before {}", date(pair.chain_not_before)));
    }
    if !hosts.is_empty() && !hosts.iter().any(|host| pair.covers(host)) {
        return unusable(Refusal::Hosts, format!("does not cover {}", hosts.join(", ")));
    }
    let own = own.filter(|own| own.chain_not_after >= now_s)?;
    let lost: Vec<&str> =
        hosts.iter().map(String::as_str).filter(|host| own.covers(host) && !pair.covers(host)).collect();
    match lost.is_empty() {
        true => None,
        false => unusable(Refusal::Hosts, format!("does not cover {}", lost.join(", "))),
    }
}

/// The response that is kept, in DER, and until when it may be used; `None` where there is none that is worth showing.
fn staple(bytes: &[u8], now_s: i64) -> Option<(Vec<u8>, Option<i64>)> {
    let [begin, end] = RESPONSE;
    let (base64, _) = std::str::from_utf8(bytes).ok()?.split_once(begin)?.1.split_once(end)?;
    let der = BASE64.decode(base64.split_ascii_whitespace().collect::<String>().as_bytes()).ok()?;
    let staple = Staple::of(&der).filter(|staple| staple.is_usable(now_s))?;
    Some((der, staple.next_update))
}

/// Whether `own`, which is valid, counts against another pair that nobody has wanted in its place: where it alone is for all `hosts`,
/// or is for all that the other is for and was issued later.
pub fn stays(own: &Pair, other: &Pair, hosts: &[String], now_s: i64) -> bool {
    let is_valid = (own.chain_not_before..=own.chain_not_after).contains(&now_s);
    let fits = |pair: &Pair| hosts.iter().all(|host| pair.covers(host));
    let has_all = || other.info.names.iter().all(|name| own.covers(name));
    is_valid
        && match (fits(own), fits(other)) {
            (true, false) => true,
            (false, true) => false,
            _ => has_all() && own.info.not_before > other.info.not_before,
        }
}

/// Gives every certificate that is obtained or stored the pair that is kept for it. One that cannot be read changes nothing:
/// the pair that `running` has for the certificate stays. Gives when this is to be done again, because a response that is stapled
/// expires: in seconds of Unix time.
pub fn give(config: &mut Config, running: Option<&Config>, now_s: i64) -> Result<Option<i64>, StoreError> {
    let mut certificates = config.certificates.iter_mut().filter(|certificate| certificate.is_kept()).peekable();
    if certificates.peek().is_none() {
        return Ok(None);
    }
    let mut again_at: Option<i64> = None;
    let directory = Directory::open(config.certificate_store.directory.clone())?;
    for certificate in certificates {
        let before = running.and_then(|running| running.certificates.iter().find(|old| old.name == certificate.name));
        let before = before.and_then(|before| before.pair.clone());
        let Some(bytes) = directory.get(&key(&certificate.name))?.map(Zeroizing::new) else {
            certificate.give(before);
            continue;
        };
        let staple = staple(&bytes, now_s);
        let (ocsp, until) = staple.map_or((None, None), |(der, until)| (Some(der), until));
        again_at = again_at.into_iter().chain(until).min();
        certificate.give(read(&bytes, ocsp.as_deref(), certificate, before.clone()).or(before));
    }
    Ok(again_at)
}

/// What is kept; `before` itself where that is the same.
fn read(bytes: &[u8], ocsp: Option<&[u8]>, certificate: &Certificate, before: Option<Arc<Pair>>) -> Option<Arc<Pair>> {
    if before.as_ref().is_some_and(|before| before.is_of(bytes, bytes, ocsp)) {
        return before;
    }
    match with_staple(bytes, ocsp) {
        Ok(pair) => Some(Arc::new(pair)),
        Err(why) => {
            log::error!("certificate \"{}\": what is kept of it cannot be used: {why}", certificate.name);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::SystemTime;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::config;
    use crate::config::ocsp::tests::{GOOD, REVOKED, response};
    use crate::control::source::DiskFiles;

    fn pem(hosts: &[&str]) -> String {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        key.serialize_pem() + &CertificateParams::new(hosts).unwrap().self_signed(&key).unwrap().pem()
    }

    /// Valid from one day to another.
    fn pair(names: &[&str], from: i64, to: i64) -> Pair {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let day = |day: i64| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(day as u64 * 86_400);
        (params.not_before, params.not_after) = (day(from), day(to));
        parse((key.serialize_pem() + &params.self_signed(&key).unwrap().pem()).as_bytes()).unwrap()
    }

    #[test]
    fn a_pair_that_is_not_good_now_or_would_lose_a_host_is_refused() {
        let hosts: Vec<String> = ["a.test", "b.test"].map(str::to_owned).to_vec();
        let both = &["a.test", "b.test"][..];
        let (own, half) = (pair(both, 0, 100), pair(&["a.test"], 0, 100));
        let now_s = 10 * 86_400;
        for (new, own, hosts, expected) in [
            (pair(both, 5, 100), Some(&own), &hosts[..], None),
            (pair(both, 0, 9), None, &hosts, Some((Refusal::Expired, "has expired"))),
            (
                pair(both, 11, 99),
                None,
                &hosts,
                Some((Refusal::NotYetValid, "is not valid before 1970-01-12T00:00:00Z")),
            ),
            (pair(&["a.test"], 5, 100), Some(&own), &hosts, Some((Refusal::Hosts, "does not cover b.test"))),
            (pair(&["a.test"], 5, 100), Some(&own), &[], None),
            (pair(&["a.test"], 5, 100), None, &hosts, None),
            (pair(&["c.test"], 5, 100), None, &hosts, Some((Refusal::Hosts, "does not cover a.test, b.test"))),
            (pair(&["a.test"], 5, 100), Some(&half), &hosts, None),
            (pair(&["a.test"], 5, 100), Some(&pair(both, 0, 9)), &hosts, None),
        ] {
            let told = refusal(&new, own, hosts, now_s);
            let told = told.as_ref().map(|unusable| (unusable.refusal, unusable.why.as_str()));
            assert_eq!(told, expected, "{:?}", new.info);
        }
        let later = pair(both, 11, 99);
        assert_eq!(refusal(&later, Some(&later), &hosts, now_s), None, "it is there already");
        let [key, chain] = [pem(both), pem(both)];
        let mixed =
            key[..key.find("-----BEGIN CERT").unwrap()].to_owned() + &chain[chain.find("-----BEGIN CERT").unwrap()..];
        let wrong = parse(mixed.as_bytes()).unwrap_err();
        assert_eq!(
            (wrong.refusal, wrong.to_string().as_str()),
            (Refusal::KeyMismatch, "has the key of another certificate")
        );
        assert_eq!(parse(b"").unwrap_err().to_string(), "has no certificate; has no private key");
    }

    #[test]
    fn what_was_obtained_says_by_whom_and_is_a_pair_like_any_other() {
        let pem = pem(&["a.test"]);
        let kept = issued("https://acme.test/dir", &pem);
        assert_eq!(directory_url(kept.as_bytes()), Some("https://acme.test/dir"));
        assert_eq!(parse(kept.as_bytes()).unwrap().info, parse(pem.as_bytes()).unwrap().info);
        assert_eq!(directory_url(pem.as_bytes()), None);
        assert_eq!(directory_url(b""), None);
    }

    #[test]
    fn a_valid_pair_counts_that_was_issued_later_for_no_fewer_names() {
        let other = pair(&["a.test", "b.test"], 10, 100);
        for (names, from, to, expected) in [
            (&["a.test", "b.test"][..], 20, 90, true),
            (&["b.test", "a.test"], 11, 110, true),
            (&["a.test", "b.test"], 10, 110, false),
            (&["a.test", "b.test"], 5, 200, false),
            (&["a.test"], 20, 110, false),
            (&["a.test", "b.test", "c.test"], 20, 110, true),
            (&["*.test"], 20, 110, true),
            // Expired, and not valid yet.
            (&["a.test", "b.test"], 20, 40, false),
            (&["a.test", "b.test"], 60, 150, false),
        ] {
            let own = pair(names, from, to);
            assert_eq!(stays(&own, &other, &[], 50 * 86_400), expected, "{names:?} {from} {to}");
        }
    }

    #[test]
    fn a_valid_pair_counts_that_alone_is_for_all_hosts() {
        let hosts = ["b.test".to_owned(), "c.test".to_owned()];
        for (own, from, to, other, expected) in [
            (&["b.test", "c.test"][..], 5, 100, &["a.test", "b.test"][..], true),
            (&["b.test", "c.test"], 5, 40, &["a.test", "b.test"], false),
            (&["a.test", "b.test"], 20, 100, &["b.test", "c.test"], false),
            (&["b.test"], 20, 100, &["b.test", "c.test"], false),
            // Neither, and both.
            (&["a.test", "b.test"], 20, 100, &["b.test"], true),
            (&["b.test", "c.test"], 5, 100, &["b.test", "c.test"], false),
        ] {
            let is_own = stays(&pair(own, from, to), &pair(other, 10, 100), &hosts, 50 * 86_400);
            assert_eq!(is_own, expected, "{own:?} {from} {to} {other:?}");
        }
    }

    fn load(directory: &Path) -> Config {
        let file = directory.join("gateway.toml");
        let text = "[[acme]]\nname = 'le'\ndirectory_url = 'https://acme.test/'\nterms_of_service_agreed = true\n\
                    [certificate_store]\ndirectory = 'kept'\n\
                    [[certificate]]\nname = 'auto'\nacme = 'le'\nhosts = ['a.test', 'b.test']\n";
        std::fs::write(&file, text).unwrap();
        config::load(&file, &DiskFiles, SystemTime::now()).unwrap_or_else(|report| panic!("{report}")).config
    }

    #[test]
    fn a_certificate_is_what_is_kept_of_it_for_the_hosts_it_covers() {
        let temporary = tempfile::tempdir().unwrap();
        let store = Directory::open(temporary.path().join("kept")).unwrap();
        let mut first = load(temporary.path());
        give(&mut first, None, 0).unwrap();
        assert!(first.certificates[0].pair.is_none());
        assert_eq!(first.certificates[0].hosts, ["a.test", "b.test"], "wanted, though nobody is shown it");

        store.put(&key("auto"), pem(&["a.test"]).as_bytes()).unwrap();
        let mut second = load(temporary.path());
        give(&mut second, Some(&first), 0).unwrap();
        assert_eq!(second.certificates[0].hosts, ["a.test"]);
        let pair = second.certificates[0].pair.clone().unwrap();

        // What has not changed is the same pair, and what cannot be read does not take its place.
        for content in [None, Some("no certificate")] {
            if let Some(content) = content {
                store.put(&key("auto"), content.as_bytes()).unwrap();
            }
            let mut next = load(temporary.path());
            give(&mut next, Some(&second), 0).unwrap();
            assert!(Arc::ptr_eq(next.certificates[0].pair.as_ref().unwrap(), &pair), "{content:?}");
            assert!(next == second, "nothing has changed");
        }

        store.put(&key("auto"), pem(&["a.test", "b.test"]).as_bytes()).unwrap();
        let mut last = load(temporary.path());
        give(&mut last, Some(&second), 0).unwrap();
        assert_eq!(last.certificates[0].hosts, ["a.test", "b.test"]);
        assert!(*last.certificates[0].pair.as_ref().unwrap() != pair);
    }

    #[test]
    fn a_response_that_is_kept_with_a_certificate_is_stapled_until_it_expires() {
        let temporary = tempfile::tempdir().unwrap();
        let store = Directory::open(temporary.path().join("kept")).unwrap();
        let pem = pem(&["a.test"]);
        let serial = data_encoding::HEXLOWER.decode(parse(pem.as_bytes()).unwrap().info.serial.as_bytes()).unwrap();
        let good = response(&serial, GOOD, Some("20260108000000Z"));
        let expires = 1_767_830_400;
        let [begin, end] = RESPONSE;
        let with = |der: &[u8]| format!("{pem}{begin}\n{}\n{end}\n", BASE64.encode(der).replace('A', "A\n"));
        for (kept, now_s, is_stapled, expected) in [
            (with(&good), expires - 1, true, Some(expires)),
            (with(&good), expires, false, None),
            (with(&response(&serial, REVOKED, None)), 0, false, None),
            (with(&response(&serial, GOOD, None)), 0, true, None),
            (with(b"nonsense"), 0, false, None),
            (pem.clone(), 0, false, None),
        ] {
            store.put(&key("auto"), kept.as_bytes()).unwrap();
            let mut config = load(temporary.path());
            assert_eq!(give(&mut config, None, now_s).unwrap(), expected);
            let pair = config.certificates[0].pair.clone().unwrap();
            assert_eq!(pair.key.ocsp.is_some(), is_stapled, "{kept}");
            let mut again = load(temporary.path());
            give(&mut again, Some(&config), now_s).unwrap();
            assert!(Arc::ptr_eq(again.certificates[0].pair.as_ref().unwrap(), &pair), "nothing has changed");
        }
        // One of another certificate.
        store.put(&key("auto"), with(&response(&[7], GOOD, None)).as_bytes()).unwrap();
        let mut config = load(temporary.path());
        give(&mut config, None, 0).unwrap();
        assert!(config.certificates[0].pair.as_ref().unwrap().key.ocsp.is_none());
    }

    #[test]
    fn without_such_a_certificate_no_directory_is_made() {
        let temporary = tempfile::tempdir().unwrap();
        let mut config = load(temporary.path());
        config.certificates.clear();
        give(&mut config, None, 0).unwrap();
        assert!(!temporary.path().join("kept").exists());
    }
}
