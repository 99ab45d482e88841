use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyPair, SanType, SerialNumber};

use super::*;

fn identity(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    Identity::of(params.self_signed(&key).unwrap().der()).unwrap()
}

fn params(names: &[(DnType, DnValue)]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in names {
        params.distinguished_name.push(kind.clone(), value.clone());
    }
    params
}

fn utf8(text: &str) -> DnValue {
    DnValue::Utf8String(text.into())
}

#[test]
fn a_certificate_is_read() {
    let mut params = params(&[(DnType::CommonName, utf8("client.test")), (DnType::OrganizationName, utf8("x"))]);
    params.serial_number = Some(SerialNumber::from(vec![0x0a, 0x0b]));
    params.subject_alt_names = vec![
        SanType::DnsName("a.test".try_into().unwrap()),
        SanType::URI("spiffe://td/a".try_into().unwrap()),
        SanType::IpAddress([192, 0, 2, 1].into()),
        SanType::IpAddress("2001:db8::1".parse().unwrap()),
        SanType::DnsName("*.b.test".try_into().unwrap()),
    ];
    let identity = identity(params);
    assert_eq!(identity.subject, "O=x,CN=client.test");
    assert_eq!(identity.issuer, identity.subject);
    assert_eq!(identity.serial, "0a0b");
    assert_eq!(identity.dns, ["a.test", "*.b.test"]);
    assert_eq!(identity.uris, ["spiffe://td/a"]);
    assert_eq!(identity.ips, [IpAddr::from([192, 0, 2, 1]), "2001:db8::1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn what_is_no_certificate_has_no_identity() {
    for bytes in [&b""[..], b"hello", &[0x30, 0x03, 0x02, 0x01, 0x01]] {
        assert_eq!(Identity::of(bytes), None);
    }
}

#[test]
fn the_key_and_the_certificate_have_hashes_of_their_own() {
    let key = KeyPair::generate().unwrap();
    let first = CertificateParams::default().self_signed(&key).unwrap();
    let second = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (first, second) = (Identity::of(first.der()).unwrap(), Identity::of(second.der()).unwrap());
    assert_eq!(first.spki_sha256, second.spki_sha256);
    assert_ne!(first.sha256, second.sha256);
    assert_eq!(first.spki_sha256, sha256(&rcgen::PublicKeyData::subject_public_key_info(&key)));
}

/// The right-hand sides are what `openssl x509 -nameopt RFC2253` prints.
#[test]
fn names_are_written_as_openssl_writes_them() {
    let cases: &[(&[(DnType, DnValue)], &str)] = &[
        (&[], ""),
        (&[(DnType::CountryName, utf8("DE")), (DnType::CommonName, utf8("a"))], "CN=a,C=DE"),
        (&[(DnType::CommonName, utf8("a,b+c\"d\\e<f>g;h=i"))], "CN=a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h=i"),
        (&[(DnType::CommonName, utf8("#a"))], "CN=\\#a"),
        (&[(DnType::CommonName, utf8(" a b "))], "CN=\\ a b\\ "),
        (&[(DnType::CommonName, utf8("a\r\nb\u{7f}"))], "CN=a\\0D\\0Ab\\7F"),
        (&[(DnType::CommonName, utf8("é"))], "CN=\\C3\\A9"),
        (&[(DnType::CommonName, DnValue::BmpString("é".try_into().unwrap()))], "CN=\\C3\\A9"),
        (&[(DnType::CustomDnType(vec![1, 2, 3, 4]), utf8("a"))], "1.2.3.4=#0C0161"),
        (
            &[(DnType::CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]), DnValue::Ia5String("a@b".try_into().unwrap()))],
            "emailAddress=a@b",
        ),
    ];
    for (names, wanted) in cases {
        assert_eq!(identity(params(names)).subject, *wanted);
    }
}

#[test]
fn a_certificate_with_an_unreadable_name_list_is_none() {
    let mut params = params(&[(DnType::CommonName, utf8("a"))]);
    // subjectAltName that is no list.
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x04, 0x01, 0x00])];
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert_eq!(Identity::of(certificate.der()), None);
}

#[test]
fn rules_match_names() {
    let mut params = params(&[(DnType::CommonName, utf8("ignored.test"))]);
    params.subject_alt_names = vec![
        SanType::DnsName("Web.a.test".try_into().unwrap()),
        SanType::DnsName("*.wild.test".try_into().unwrap()),
        SanType::URI("spiffe://td.test/ns/prod/sa/web".try_into().unwrap()),
        SanType::IpAddress([192, 0, 2, 1].into()),
    ];
    let identity = identity(params);
    let cases = [
        (SanMatch::Dns("web.a.test".into()), true),
        (SanMatch::Dns("a.test".into()), false),
        (SanMatch::Dns("ignored.test".into()), false),
        // A wildcard is no other name.
        (SanMatch::Dns("x.wild.test".into()), false),
        (SanMatch::Dns("*.wild.test".into()), true),
        (SanMatch::DnsLabel(".a.test".into()), true),
        (SanMatch::DnsLabel(".test".into()), false),
        (SanMatch::DnsLabel(".web.a.test".into()), false),
        (SanMatch::DnsBelow(".test".into()), true),
        (SanMatch::DnsBelow(".a.test".into()), true),
        (SanMatch::DnsBelow(".eb.a.test".into()), false),
        (SanMatch::DnsBelow(".longer.than.the.name.web.a.test".into()), false),
        (SanMatch::Uri("spiffe://td.test/ns/prod/sa/web".into()), true),
        (SanMatch::Uri("spiffe://td.test/ns/prod/sa/WEB".into()), false),
        (SanMatch::Uri("spiffe://td.test/ns/prod/sa".into()), false),
        (SanMatch::UriPrefix("spiffe://td.test/ns/prod/".into()), true),
        (SanMatch::UriPrefix("spiffe://td.test/ns/dev/".into()), false),
        (SanMatch::TrustDomain("spiffe://td.test/".into()), true),
        (SanMatch::TrustDomain("spiffe://td/".into()), false),
        (SanMatch::Ip([192, 0, 2, 1].into()), true),
        (SanMatch::Ip([192, 0, 2, 2].into()), false),
    ];
    for (rule, wanted) in cases {
        assert_eq!(rule.matches(&identity), wanted, "{rule:?}");
    }
}
