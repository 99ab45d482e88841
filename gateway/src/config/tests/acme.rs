//! Accounts with certificate authorities, and certificates that are obtained by them.

use super::good::config;
use crate::config::model::{Acme, AcmeChallenge, AcmeKeyType, CertificateSource, ExternalAccount, Obtained};

const ACCOUNT: &str = "[[acme]]\nname = \"le\"\ndirectory_url = \"https://acme.test/directory\"\n\
                       terms_of_service_agreed = true\n";

#[test]
fn an_account_means_what_it_says() {
    let text = format!(
        "{ACCOUNT}contact = [\"mailto:ops@example.com\"]\nchallenge = \"tls-alpn-01\"\nkey_type = \"rsa-4096\"\n\
         profile = \"shortlived\"\n[certificate_store]\ndirectory = \"kept\"\n"
    );
    let config = config(&text);
    let wanted = Acme {
        name: "le".into(),
        directory_url: "https://acme.test/directory".into(),
        contact: vec!["mailto:ops@example.com".into()],
        challenge: AcmeChallenge::TlsAlpn01,
        ca_pem: None,
        key_type: AcmeKeyType::Rsa4096,
        external_account: None,
        profile: Some("shortlived".into()),
    };
    assert_eq!(config.acme, [wanted]);
    assert_eq!(config.certificate_store.directory, std::path::Path::new("kept"));
}

#[test]
fn a_key_of_an_external_account_may_be_written_in_every_way_that_authorities_do() {
    for text in ["-_8", "-_8=\n", " +/8= ", "+/8"] {
        let mut files = super::files::MapFiles::default();
        files.add("hmac", text);
        files.add(
            "gateway.toml",
            format!("{ACCOUNT}external_account = {{ key_id = \"kid\", hmac_key = \"hmac\" }}").as_str(),
        );
        let loaded = files.load().unwrap_or_else(|report| panic!("{text:?}: {report}"));
        let wanted = ExternalAccount { key_id: "kid".into(), hmac_key: [0xfb, 0xff].into() };
        let found = loaded.config.acme[0].external_account.clone();
        assert!(found.as_ref() == Some(&wanted), "{text:?}");
        assert!(!format!("{found:?}").contains("251"), "{found:?}");
    }
}

#[test]
fn a_certificate_that_is_obtained_has_no_pair_in_the_configuration() {
    let text = format!(
        "{ACCOUNT}[[certificate]]\nname = \"auto\"\nacme = \"le\"\nhosts = [\"example.com\", \"www.example.com\"]\n"
    );
    let certificate = &config(&text).certificates[0];
    let hosts = vec!["example.com".to_owned(), "www.example.com".to_owned()];
    assert!(certificate.pair.is_none());
    assert_eq!(certificate.hosts, hosts);
    assert_eq!(certificate.source, CertificateSource::Acme(Obtained { by: "le".into(), hosts }));
}
