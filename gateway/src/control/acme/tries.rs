//! Tries that have failed, as they are kept beside the certificate: a process that crashes and is started again and again
//! must not ask the authority each time.

use aws_lc_rs::digest::{self, SHA256};
use data_encoding::HEXLOWER;

use super::keeper::Wanted;
use crate::control::store::{Directory, StoreError, segment};

/// What the keys of tries begin with.
const TRIES: &str = "tries";

/// Tries in a row that have failed, and the pause after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// How many.
    pub failures: u32,
    /// Until when the next one waits, in seconds of Unix time.
    pub until: i64,
    /// How long that was when it began, in seconds.
    pub pause_s: i64,
}

/// The tries that are kept; `None` where there are none, or they were for something else: what is wanted in another way now
/// may well succeed.
pub fn read(files: &Directory, wanted: &Wanted) -> Option<Tries> {
    let bytes = files.get(&key(wanted)).ok()??;
    let mut words = std::str::from_utf8(&bytes).ok()?.split_whitespace();
    let mut next = || words.next();
    let (of, failures, until, pause_s) = (next()?, next()?, next()?, next()?);
    let tries = Tries { failures: failures.parse().ok()?, until: until.parse().ok()?, pause_s: pause_s.parse().ok()? };
    (of == fingerprint(wanted)).then_some(tries)
}

/// Keeps tries; those that end well are nothing to keep.
pub fn write(files: &Directory, wanted: &Wanted, tries: Tries) -> Result<(), StoreError> {
    let Tries { failures, until, pause_s } = tries;
    match failures {
        0 => files.remove(&key(wanted)),
        _ => files.put_soon(&key(wanted), format!("{} {failures} {until} {pause_s}\n", fingerprint(wanted)).as_bytes()),
    }
}

fn key(wanted: &Wanted) -> String {
    format!("{TRIES}/{}", segment(&wanted.certificate))
}

/// Of all that makes a difference to the authority. Nothing secret can be read from it.
fn fingerprint(wanted: &Wanted) -> String {
    let Wanted { hosts, settings, .. } = wanted;
    let mut all = digest::Context::new(&SHA256);
    all.update(format!("{hosts:?} {settings:?}").as_bytes());
    all.update(settings.external_account.as_ref().map_or(&[][..], |account| &account.hmac_key));
    HEXLOWER.encode(&all.finish().as_ref()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model;

    fn wanted(hosts: &[&str], directory_url: &str) -> Wanted {
        Wanted {
            certificate: "a/b".into(),
            hosts: hosts.iter().map(ToString::to_string).collect(),
            settings: model::Acme {
                name: "le".into(),
                directory_url: directory_url.into(),
                contact: Vec::new(),
                challenge: model::AcmeChallenge::default(),
                ca_pem: None,
                key_type: model::AcmeKeyType::default(),
                external_account: None,
                profile: None,
            },
            store: model::CertificateStore::default(),
        }
    }

    #[test]
    fn tries_outlive_the_process_unless_something_else_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let files = Directory::open(directory.path().join("store")).unwrap();
        let one = wanted(&["a.test"], "https://one.test/");
        assert_eq!(read(&files, &one), None);
        let tries = Tries { failures: 3, until: 5_000, pause_s: 3_600 };
        write(&files, &one, tries).unwrap();
        assert_eq!(read(&files, &one), Some(tries));
        assert_eq!(read(&files, &wanted(&["a.test", "b.test"], "https://one.test/")), None);
        assert_eq!(read(&files, &wanted(&["a.test"], "https://two.test/")), None);
        for _ in 0..2 {
            write(&files, &one, Tries::default()).unwrap();
            assert_eq!(read(&files, &one), None);
        }
        files.put("tries/a%2Fb", b"x 1").unwrap();
        assert_eq!(read(&files, &one), None);
    }
}
