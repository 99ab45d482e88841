use std::path::Path;

use super::*;
use crate::config::model::Pair;
use crate::config::tests::certificates;
use crate::config::tests::files::{MapFiles, now};

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match content.len() {
        short @ ..128 => vec![short as u8],
        long => vec![0x82, (long >> 8) as u8, long as u8],
    };
    [&[tag][..], &length, &content].concat()
}

/// A response as RFC 6960 section 4.2.1 has it, its signature left out.
pub(crate) fn response(serial: &[u8], status: u8, next_update: Option<&str>) -> Vec<u8> {
    let seq = |parts: &[&[u8]]| tlv(0x30, parts);
    let time = |text: &str| tlv(0x18, &[text.as_bytes()]);
    let sha1 = seq(&[&tlv(6, &[&[0x2b, 14, 3, 2, 26]]), &[5, 0]]);
    let certificate = seq(&[&sha1, &tlv(4, &[&[1; 20]]), &tlv(4, &[&[2; 20]]), &tlv(2, &[serial])]);
    let until = next_update.map(|text| tlv(0xa0, &[&time(text)])).unwrap_or_default();
    let answer = seq(&[&certificate, &tlv(status, &[]), &time("20251231000000Z"), &until]);
    let responder = tlv(0xa2, &[&tlv(4, &[&[3; 20]])]);
    let data = seq(&[&responder, &time("20251231000000Z"), &seq(&[&answer])]);
    let basic = seq(&[&data, &sha1, &tlv(3, &[&[0; 65]])]);
    let kind = tlv(6, &[&[0x2b, 6, 1, 5, 5, 7, 48, 1, 1]]);
    seq(&[&tlv(10, &[&[0]]), &tlv(0xa0, &[&seq(&[&kind, &tlv(4, &[&basic])])])])
}

pub(crate) const GOOD: u8 = 0x80;
pub(crate) const REVOKED: u8 = 0xa1;

#[test]
fn a_response_says_about_which_certificate_it_is_and_for_how_long() {
    let found = Staple::of(&response(&[0, 0x81, 2], GOOD, Some("20260108000000Z"))).unwrap();
    assert_eq!(found, Staple { serial: "8102".into(), is_good: true, next_update: Some(1_767_830_400) });
    let found = Staple::of(&response(&[7], REVOKED, None)).unwrap();
    assert_eq!(found, Staple { serial: "07".into(), is_good: false, next_update: None });
}

#[test]
fn what_is_no_response_is_none_wherever_it_ends() {
    let whole = response(&[7], GOOD, Some("20260108000000Z"));
    for end in 0..whole.len() {
        assert_eq!(Staple::of(&whole[..end]), None, "{end}");
    }
    let try_later = tlv(0x30, &[&tlv(10, &[&[3]])]);
    assert_eq!(Staple::of(&try_later), None);
    assert_eq!(Staple::of(&vec![0x30; MAX_BYTES + 1]), None);
}

#[test]
fn only_a_response_that_is_good_fresh_and_about_the_certificate_is_stapled() {
    let mut files: MapFiles = certificates::files();
    files.add(
        "gateway.toml",
        "[[certificate]]\nname = \"c\"\nchain = \"certs/good.pem\"\nkey = \"certs/good.key\"\nocsp = \"c.ocsp\"\n",
    );
    let [chain, key] = ["certs/good.pem", "certs/good.key"].map(|path| files.0[Path::new(path)].clone());
    let serial = Pair::of(&chain, &key, None).unwrap().info.serial;
    let serial = HEXLOWER.decode(serial.as_bytes()).unwrap();
    let week =
        |from: std::time::SystemTime| from.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64 + 7 * 86_400;
    for (serial, status, next_update, is_stapled, warning) in [
        (&serial[..], GOOD, Some("20260108000000Z"), true, ""),
        (&serial[..], GOOD, None, true, ""),
        (&serial[..], GOOD, Some("20251231000000Z"), false, "c.ocsp expired on 2025-12-31"),
        (&serial[..], REVOKED, None, false, "c.ocsp does not say that the certificate is good"),
        (&[7][..], GOOD, None, false, "c.ocsp is about another certificate"),
    ] {
        let der = response(serial, status, next_update);
        files.add("c.ocsp", der.clone());
        let loaded = files.load().unwrap();
        let pair = loaded.config.certificates[0].pair.as_ref().unwrap();
        assert_eq!(pair.key.ocsp, is_stapled.then_some(der), "{warning}");
        assert!(loaded.warnings.to_string().contains(warning), "{}", loaded.warnings);
        let again_at = (is_stapled && next_update.is_some()).then(|| week(now()));
        assert_eq!(loaded.again_at, again_at);
    }
}
