//! Certificates whose files change while they run.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::certificates;
use super::files::{MapFiles, now};
use crate::config::model::{CertificateInfo, Config, KeyKind, Pair};
use crate::config::{Known, Loaded, Refusal, Report, load_knowing};

const ONE: &str = "[[certificate]]\nname = \"c\"\nchain = \"c.pem\"\nkey = \"c.key\"\nhosts = [\"example.com\"]\n";
const MANY: &str = "[[certificate]]\nname = \"d\"\ndirectory = \"certs.d\"\n";

/// The test certificates, and a configuration.
fn files(text: &str) -> MapFiles {
    let mut files = certificates::files();
    files.add("gateway.toml", text);
    files
}

/// Puts a pair, or what is to be one, where the configuration finds it.
fn put(files: &mut MapFiles, at: &str, chain: &str, key: &str) {
    for (path, from) in [(format!("{at}.pem"), chain), (format!("{at}.key"), key)] {
        match files.0.get(Path::new(&format!("certs/{from}"))).cloned() {
            Some(bytes) => files.add(&path, bytes),
            None => _ = files.0.remove(Path::new(&path)),
        }
    }
}

fn put_file(files: &mut MapFiles, at: &str, from: &str) {
    let bytes = files.0[Path::new(from)].clone();
    files.add(at, bytes);
}

fn put_pair(files: &mut MapFiles, at: &str, pair: &str) {
    put(files, at, &format!("{pair}.pem"), &format!("{pair}.key"));
}

fn reload(files: &MapFiles, running: &Config) -> Result<Loaded, Report> {
    let known = Known { now: now(), running: Some(running), find_user: None };
    load_knowing(Path::new("gateway.toml"), files, &known)
}

fn pair(config: &Config) -> &Arc<Pair> {
    config.certificates[0].pair.as_ref().expect("it comes from files")
}

#[test]
fn a_renewed_pair_is_used_and_one_that_is_the_same_is_not_read_again() {
    let mut files = files(ONE);
    put_pair(&mut files, "c", "good");
    let first = files.load().unwrap().config;
    let same = reload(&files, &first).unwrap();
    assert!(Arc::ptr_eq(pair(&first), pair(&same.config)));
    assert_eq!(first, same.config);
    put_pair(&mut files, "c", "renewed");
    let renewed = reload(&files, &first).unwrap();
    assert_ne!(first, renewed.config);
    assert!(renewed.refused.is_empty() && renewed.warnings.diagnostics.len() == 1, "{}", renewed.warnings);
}

#[test]
fn a_bad_pair_does_not_take_the_place_of_one_that_runs_and_it_is_said_why() {
    for (chain, key, refusal, message) in [
        ("good.pem", "other.key", Refusal::KeyMismatch, "c.key is not the key of this certificate"),
        ("future.pem", "future.key", Refusal::NotYetValid, "c.pem is not valid before 2030-01-01"),
        ("expired.pem", "expired.key", Refusal::Expired, "c.pem expired on 2025-01-01"),
        ("other.pem", "other.key", Refusal::Hosts, "the certificate does not cover example.com"),
        ("text.pem", "good.key", Refusal::Unreadable, "c.pem has no certificate"),
        ("good.pem", "encrypted.key", Refusal::Unreadable, "c.key has an encrypted key, which is not supported"),
        ("none", "good.key", Refusal::Unreadable, "cannot read c.pem: no such file"),
        ("good.pem", "none", Refusal::Unreadable, "cannot read c.key: no such file"),
    ] {
        let mut files = files(ONE);
        put_pair(&mut files, "c", "good");
        let first = files.load().unwrap().config;
        put(&mut files, "c", chain, key);
        let after = reload(&files, &first).unwrap();
        assert_eq!(after.config, first, "{message}");
        let [refused] = &after.refused[..] else { panic!("{:?}", after.refused) };
        assert_eq!((refused.refusal, refused.message.as_str(), refused.kept), (refusal, message, true));
        assert!(after.warnings.to_string().contains(&format!("certificate `c`: {message}")), "{}", after.warnings);
        // Nothing to fall back on: it expires later, so a good one may take its place.
        if refusal != Refusal::Expired {
            assert!(files.load().unwrap_err().to_string().contains(message));
        }
    }
}

#[test]
fn a_mistake_in_the_configuration_is_an_error_although_an_older_pair_runs() {
    let mut files = files(ONE);
    put_pair(&mut files, "c", "good");
    let first = files.load().unwrap().config;
    for (text, message) in [
        (ONE.replace("c.pem", "typo.pem"), "cannot read typo.pem"),
        (ONE.replace("example.com", "example.org"), "the certificate does not cover example.org"),
        (ONE.replace("\"c\"", "\"other-name\"").replace("c.key", "certs/other.key"), "is not the key"),
    ] {
        files.add("gateway.toml", text);
        let report = reload(&files, &first).expect_err(message).to_string();
        assert!(report.contains(message), "{report}");
    }
}

#[test]
fn a_pair_that_is_not_valid_yet_is_looked_at_again_when_it_is() {
    let mut files = files(ONE);
    put_pair(&mut files, "c", "good");
    let first = files.load().unwrap().config;
    put_pair(&mut files, "c", "future");
    let begin = reload(&files, &first).unwrap().again_at.expect("when it becomes valid");
    let then = std::time::UNIX_EPOCH + Duration::from_secs(begin as u64);
    let known = Known { now: then, running: Some(&first), find_user: None };
    let loaded = load_knowing(Path::new("gateway.toml"), &files, &known).unwrap();
    assert_eq!((pair(&loaded.config).info.not_before, loaded.again_at), (begin, None));
}

#[test]
fn pairs_of_a_directory_come_and_go_and_a_bad_one_is_left_out() {
    let names = |loaded: &Loaded| -> Vec<String> {
        loaded.config.certificates.iter().map(|certificate| certificate.name.clone()).collect()
    };
    let mut files = files(MANY);
    put_pair(&mut files, "certs.d/a", "good");
    put(&mut files, "certs.d/b", "other.pem", "none");
    let first = files.load().unwrap();
    assert_eq!(names(&first), ["d/a"]);
    assert_eq!(first.config.certificates[0].hosts, ["example.com", "*.example.com"]);
    let refused = &first.refused[0];
    assert_eq!((refused.certificate.as_str(), refused.kept), ("d/b", false));
    assert!(first.files.contains(&"certs.d".into()) && first.files.contains(&"certs.d/b.key".into()));

    put_pair(&mut files, "certs.d/b", "other");
    let second = reload(&files, &first.config).unwrap();
    assert_eq!((names(&second), second.refused.len()), (vec!["d/a".to_owned(), "d/b".to_owned()], 0));
    assert!(Arc::ptr_eq(pair(&first.config), pair(&second.config)));

    put(&mut files, "certs.d/b", "other.pem", "good.key");
    put(&mut files, "certs.d/a", "none", "none");
    let third = reload(&files, &second.config).unwrap();
    assert_eq!(names(&third), ["d/b"]);
    assert_eq!(third.config.certificates[0], second.config.certificates[1]);
    assert!(third.refused[0].kept);
}

#[test]
fn a_certificate_that_is_obtained_serves_what_it_covers_once_there_is_one() {
    let text = "[[acme]]\nname = \"a\"\ndirectory_url = \"https://acme.test/\"\nterms_of_service_agreed = true\n\
                [[certificate]]\nname = \"c\"\nacme = \"a\"\nhosts = [\"example.com\", \"example.org\"]\n";
    let files = files(text);
    let mut certificate = files.load().unwrap().config.certificates.remove(0);
    assert_eq!((&certificate.pair, certificate.hosts.len()), (&None, 2));

    let [chain, key] = ["certs/good.pem", "certs/good.key"].map(|path| files.0[Path::new(path)].clone());
    let pair = Arc::new(Pair::of(&chain, &key, None).unwrap());
    certificate.give(Some(pair.clone()));
    assert_eq!((certificate.pair, certificate.hosts), (Some(pair), vec!["example.com".to_owned()]));
}

#[test]
fn a_certificate_says_what_it_is() {
    let files = certificates::files();
    let [chain, key] = ["certs/good.pem", "certs/good.key"].map(|path| files.0[Path::new(path)].clone());
    let pair = Pair::of(&chain, &key, None).unwrap();
    let CertificateInfo { names, issuer, serial, key_kind, not_before, not_after, sha256 } = pair.info.clone();
    assert_eq!(names, ["example.com", "*.example.com"]);
    assert_eq!((issuer.as_str(), key_kind), ("CN=rcgen self signed cert", KeyKind::Ecdsa(256)));
    assert_eq!((not_before, not_after), (1_577_836_800, 2_208_988_800));
    assert!(serial.len() >= 16 && serial.bytes().all(|byte| byte.is_ascii_hexdigit()), "{serial}");
    assert_ne!(sha256, [0; 32]);
    assert_eq!(CertificateInfo::of(&pair.key.cert[0]), Some(pair.info));
    assert_eq!(CertificateInfo::of(b"none"), None);
}

#[test]
fn a_directory_that_is_empty_all_at_once_leaves_what_runs() {
    let mut files = files(MANY);
    put_pair(&mut files, "certs.d/a", "good");
    let first = files.load().unwrap().config;
    put(&mut files, "certs.d/a", "none", "none");
    for (path, message) in [
        ("none", "there is no directory certs.d"),
        ("certs.d/README", "there is no certificate in certs.d"),
        ("certs.d", "certs.d is no directory"),
    ] {
        files.add(path, "");
        let second = reload(&files, &first).unwrap();
        assert_eq!(second.config.certificates, first.certificates);
        assert!(second.warnings.diagnostics.iter().any(|warning| warning.message == message), "{}", second.warnings);
        let [note] = &second.notes[..] else { panic!("{:?}", second.notes) };
        let rest = "those that were there are used on; take the table out when they are not wanted any more";
        assert_eq!(*note, format!("certificate `d`: {message}: {rest}"));
        // One that is new has nothing to go on with.
        let anew = files.load().unwrap();
        assert!(anew.config.certificates.is_empty() && anew.notes.is_empty());
        assert!(anew.warnings.to_string().contains(message), "{}", anew.warnings);
        files.0.remove(Path::new(path));
    }
}

#[test]
fn of_both_endings_in_a_directory_the_first_that_is_good_is_used_and_neither_takes_the_other_away() {
    let mut files = files(MANY);
    put_pair(&mut files, "certs.d/a", "good");
    let first = files.load().unwrap().config;
    // With the key of the one that runs.
    put_file(&mut files, "certs.d/a.crt", "certs/other.pem");
    for known in [Some(&first), None] {
        let loaded = match known {
            Some(running) => reload(&files, running).unwrap(),
            None => files.load().unwrap(),
        };
        assert_eq!(loaded.config.certificates, first.certificates, "also at a start");
        let [refused] = &loaded.refused[..] else { panic!("{:?}", loaded.refused) };
        let message = "certs.d/a.crt beside certs.d/a.pem: certs.d/a.key is not the key of this certificate";
        assert_eq!((refused.certificate.as_str(), refused.message.as_str(), refused.kept), ("d/a", message, true));
        let warnings = loaded.warnings.to_string();
        assert!(
            warnings.contains("certificate `d/a`: certs.d/a.crt is not used, as there is certs.d/a.pem"),
            "{warnings}"
        );
    }
    // The key comes, too.
    put_file(&mut files, "certs.d/a.key", "certs/other.key");
    let second = reload(&files, &first).unwrap();
    assert_eq!(second.config.certificates[0].hosts, ["example.org"]);
    assert!(second.refused.is_empty() && second.warnings.to_string().contains("certs.d/a.pem is not used"));
    // The other one goes, and what stays is bad.
    files.0.remove(Path::new("certs.d/a.crt"));
    let third = reload(&files, &second.config).unwrap();
    assert_eq!(third.config.certificates[0].pair, second.config.certificates[0].pair);
    assert!(third.refused[0].kept);
}

#[test]
fn of_both_endings_one_that_has_expired_is_passed_over_and_one_that_runs_is_not_left_for_an_old_one() {
    let mut files = files(MANY);
    put_pair(&mut files, "certs.d/a", "good");
    let first = files.load().unwrap().config;
    put_file(&mut files, "certs.d/a.crt", "old/lapsed.pem");
    for loaded in [reload(&files, &first).unwrap(), files.load().unwrap()] {
        assert_eq!(loaded.config.certificates, first.certificates);
        let message = "certs.d/a.crt beside certs.d/a.pem: certs.d/a.crt expired on 2024-01-01";
        assert_eq!((loaded.refused[0].refusal, loaded.refused[0].message.as_str()), (Refusal::Expired, message));
    }
    put_file(&mut files, "certs.d/a.crt", "certs/good.pem");
    put_file(&mut files, "certs.d/a.pem", "old/former.pem");
    let running = files.load().unwrap().config;
    assert_eq!(pair(&running).info.names.len(), 2);
    put_file(&mut files, "certs.d/a.crt", "certs/broken.pem");
    let second = reload(&files, &running).unwrap();
    assert!(Arc::ptr_eq(pair(&second.config), pair(&running)));
    assert_eq!((second.refused.len(), second.refused[0].kept), (1, true));
    // Nothing runs at a start.
    assert_eq!(pair(&files.load().unwrap().config).info.names, ["example.com"]);
}
