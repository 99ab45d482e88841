//! What people read: the examples load, and what schema and reference say is so.

use std::path::{Path, PathBuf};

use super::certificates;
use super::files::{MapFiles, now};
use super::good::{config, inline, keys_with};
use crate::config::model::*;
use crate::config::reference::toml_text;
use crate::config::{load, reference, schema};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_example_loads_without_a_warning() {
    let mut files = MapFiles::default();
    let mut examples = 0;
    for entry in walk(&root().join("examples")) {
        files.add(entry.to_str().unwrap(), std::fs::read(&entry).unwrap());
    }
    let paths: Vec<PathBuf> = files.0.keys().cloned().collect();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        // Parts of another example.
        if path.parent().is_some_and(|parent| parent.ends_with("conf.d")) {
            continue;
        }
        examples += 1;
        let mut files = files.clone();
        // Neither certificates nor private keys are committed, not even for an example.
        for name in ["example", "api", "staff-ca", "mesh-ca", "internal-ca"] {
            for extension in ["pem", "key"] {
                let at = path.with_file_name("certs").join(format!("{name}.{extension}"));
                files.add(
                    at.to_str().unwrap(),
                    certificates::files().0[Path::new(&format!("certs/good.{extension}"))].clone(),
                );
            }
        }
        match load(path, &files, now()) {
            Ok(loaded) => assert!(loaded.warnings.diagnostics.is_empty(), "{}", loaded.warnings),
            Err(report) => panic!("{report}"),
        }
    }
    assert!(examples >= 11);
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = config("");
    assert_eq!(config.gateway, Gateway::default());
    assert_eq!(config.admin, Some(Admin { address: "127.0.0.1:9901".parse().unwrap() }));
    assert_eq!(config.access_log, None);
    assert_eq!(config.xdp, Xdp::default());
}

/// A file with every table that has defaults; each may be filled with `keys`.
fn file_with(keys: impl Fn(&str) -> String) -> String {
    format!(
        "[gateway]\n{}[admin]\n{}[access_log]\n{}[certificate_store]\n{}[certificate_alerts]\n{}[xdp]\n{}\
         [[listener]]\nname = \"web\"\naddress = \"0.0.0.0:443\"\n{}\
         [listener.tls]\ncertificates = [\"c\"]\n{}[listener.limits]\n{}[listener.path_normalisation]\n{}\
         [listener.http2]\n{}\
         [[acme]]\nname = \"le\"\ndirectory_url = \"https://acme.test/directory\"\nterms_of_service_agreed = true\n{}\
         [[certificate]]\nname = \"c\"\nchain = \"certs/good.pem\"\nkey = \"certs/good.key\"\n{}\
         [[listener]]\nname = \"pg\"\naddress = \"0.0.0.0:5432\"\nprotocol = \"tcp\"\n\
         [[l4_route]]\nname = \"l\"\ncluster = \"api\"\n{}\
         [[cluster]]\nname = \"api\"\nendpoints = [\"10.0.0.1:80\"]\n{}[cluster.tls]\n{}\
         [[route]]\nname = \"r\"\ncluster = \"api\"\n{}[route.request_headers]\n{}\
         [[route]]\nname = \"s\"\nredirect = {{ host = \"a\", {} }}\n\
         [[route]]\nname = \"t\"\nrespond = {{ status = 200, {} }}\n\
         [[route]]\nname = \"u\"\ncluster = \"api\"\nwebsocket = {{ {} }}\n\
         [xdp.flows]\n{}[xdp.timeouts]\n{}[xdp.limits]\n{}\
         [[vip]]\nname = \"v\"\naddress = \"192.0.2.1:80\"\ncluster = \"checked\"\n{}\
         [[cluster]]\nname = \"checked\"\nendpoints = [{{ address = \"10.0.0.1:80\", {} }}]\n\
         health_check = {{ protocol = \"http\", {} }}\n",
        keys("Gateway"),
        keys("Admin"),
        keys("AccessLog"),
        keys("CertificateStore"),
        keys("CertificateAlerts"),
        keys("Xdp"),
        keys("Listener"),
        keys("ListenerTls"),
        keys("Limits"),
        keys("PathNormalisation"),
        keys("Http2"),
        keys("Acme"),
        keys("Certificate"),
        keys("L4Route"),
        keys("Cluster"),
        keys("ClusterTls"),
        keys("Route"),
        keys("HeaderEdits"),
        inline(&keys("Redirect")),
        inline(&keys("Respond")),
        keys("WebSocketTable").trim_end(),
        keys("Flows"),
        keys("Timeouts"),
        keys("XdpLimits"),
        keys("Vip"),
        inline(&keys("EndpointTable")),
        inline(&keys("HealthCheck")),
    )
}

#[test]
fn the_defaults_that_the_schema_shows_are_the_defaults() {
    assert_eq!(config(&file_with(|table| keys_with("default", table))), config(&file_with(|_| String::new())));
}

#[test]
fn every_example_in_the_schema_is_accepted() {
    let examples = |table: &str| {
        let schema = schema().to_value();
        let Some(properties) = schema["$defs"][table]["properties"].as_object() else { panic!("no {table}") };
        let mut lines = String::new();
        for (key, schema) in properties {
            let Some(example) = schema["examples"].get(0) else { continue };
            lines += &format!("{key} = {}\n", toml_text(example));
        }
        lines
    };
    let lists = "[[listener]]\nname = \"web\"\naddress = \"0.0.0.0:1\"\n[[cluster]]\nname = \"api\"\nendpoints = []\n\
                 [[cluster]]\nname = \"api-canary\"\nendpoints = []\n";
    let l4_lists = "[[listener]]\nname = \"pg\"\naddress = \"0.0.0.0:1\"\nprotocol = \"tls_passthrough\"\n\
                    [[cluster]]\nname = \"db\"\nendpoints = []\n[[cluster]]\nname = \"db-new\"\nendpoints = []\n";
    let route = |keys: String| format!("{lists}[[route]]\nname = \"r\"\n{keys}");
    let without = |keys: String, left_out: &[&str]| -> String {
        keys.lines()
            .filter(|line| !left_out.iter().any(|key| line.split(' ').next() == Some(key)))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    for text in [
        format!("[gateway]\n{}", examples("Gateway")),
        format!("[admin]\n{}", examples("Admin")),
        format!("[access_log]\n{}", examples("AccessLog")),
        format!("[xdp]\n{}", examples("Xdp")),
        format!("[xdp]\n[xdp.flows]\n{}[xdp.timeouts]\n{}", examples("Flows"), examples("Timeouts")),
        format!("[xdp]\n[xdp.limits]\n{}", examples("XdpLimits")),
        format!("[xdp]\n[xdp.drop_log]\n{}", examples("DropLog")),
        format!("[xdp]\n[xdp.limits.syn]\n{}", examples("PacketRate")),
        format!(
            "[[cluster]]\nname = \"api\"\nendpoints = [\"10.0.0.1:443\"]\n[[vip]]\n{}",
            without(examples("Vip"), &["listener"])
        ),
        format!(
            "[[listener]]\nname = \"web\"\naddress = \"192.0.2.10:443\"\nprotocol = \"udp\"\n[[vip]]\n{}",
            without(examples("Vip"), &["cluster"])
        ),
        format!(
            "[[cluster]]\nname = \"a\"\nendpoints = []\n[cluster.health_check]\n{}",
            without(examples("HealthCheck"), &["send", "expect", "service"])
        ),
        format!("[[access]]\n{}", examples("Access")),
        format!("[[acme]]\n{}", examples("Acme")),
        format!("[[acme]]\n{}[acme.external_account]\n{}", examples("Acme"), examples("ExternalAccount")),
        format!("[certificate_store]\n{}", examples("CertificateStore")),
        format!("[[certificate]]\n{}", without(examples("Certificate"), &["directory", "acme", "stored"])),
        format!(
            "[[acme]]\n{}[[certificate]]\nhosts = [\"example.com\"]\n{}",
            examples("Acme"),
            without(examples("Certificate"), &["hosts", "directory", "chain", "key", "ocsp", "stored"])
        ),
        format!(
            "[[certificate]]\n{}",
            without(examples("Certificate"), &["hosts", "acme", "chain", "key", "ocsp", "stored"])
        ),
        format!(
            "[certificate_store]\n[certificate_store.etcd]\n{}[[certificate]]\n{}",
            examples("EtcdStore"),
            without(examples("Certificate"), &["directory", "chain", "key", "ocsp", "acme"])
        ),
        format!("[certificate_alerts]\n{}", examples("CertificateAlerts")),
        format!("[[listener]]\n{}[listener.limits]\n{}", examples("Listener"), examples("Limits")),
        format!(
            "[[listener]]\n{}[listener.path_normalisation]\n{}",
            examples("Listener"),
            examples("PathNormalisation")
        ),
        format!("[[listener]]\n{}[listener.http2]\n{}", examples("Listener"), examples("Http2")),
        format!(
            "[[certificate]]\n{}[[listener]]\n{}[listener.tls]\n{}client_auth = {{ {} }}\nhosts = [{{ {} }}]\n",
            without(without(examples("Certificate"), &["directory", "acme", "stored"]), &["directory", "acme", "ocsp"]),
            examples("Listener"),
            examples("ListenerTls"),
            inline(&examples("ClientAuth")),
            inline(&examples("TlsHost")),
        ),
        format!("{l4_lists}[[l4_route]]\n{}", without(examples("L4Route"), &["clusters"])),
        format!("{l4_lists}[[l4_route]]\n{}", without(examples("L4Route"), &["cluster"])),
        format!("[[cluster]]\n{}", examples("Cluster")),
        format!("[[cluster]]\nname = \"a\"\nendpoints = [{{ {} }}]\n", inline(&examples("EndpointTable"))),
        format!(
            "[[certificate]]\nname = \"gateway-client\"\nchain = \"certs/good.pem\"\nkey = \"certs/good.key\"\n\
             [[cluster]]\nname = \"a\"\nendpoints = []\n[cluster.tls]\n{}",
            examples("ClusterTls")
        ),
        format!("{lists}[[route]]\n{}", without(examples("Route"), &["clusters", "rate_limit_service"])),
        format!("{lists}[[route]]\n{}", without(examples("Route"), &["cluster", "rate_limit_service"])),
        route(format!("cluster = \"api\"\nwebsocket = {{ {} }}\n", examples("WebSocketTable").trim_end())),
        route(format!("cluster = \"api\"\n[route.match.grpc]\n{}", examples("Grpc"))),
        route(format!("cluster = \"api\"\n[route.rewrite]\n{}", examples("Rewrite"))),
        route(format!("[route.redirect]\n{}", without(examples("Redirect"), &["path"]))),
        route(format!("[route.redirect]\n{}", without(examples("Redirect"), &["path_prefix"]))),
        route(format!("[route.respond]\n{}[route.response_headers]\n{}", examples("Respond"), examples("HeaderEdits"))),
        route(format!("cluster = \"api\"\n[route.match]\n{}", without(examples("Match"), &["path", "path_prefix"]))),
        route(format!("cluster = \"api\"\n[route.match]\n{}", without(examples("Match"), &["path", "path_regex"]))),
        route(format!(
            "cluster = \"api\"\n[route.match]\n{}",
            without(examples("Match"), &["path_regex", "path_prefix"])
        )),
    ] {
        let mut files = certificates::files();
        for (name, like) in [
            ("example.pem", "good.pem"),
            ("example.key", "good.key"),
            ("internal-ca.pem", "good.pem"),
            ("clients-ca.pem", "good.pem"),
            ("clients.crl", "none-revoked.crl"),
            ("internal.crl", "none-revoked.crl"),
        ] {
            let bytes = files.0[Path::new(&format!("certs/{like}"))].clone();
            files.add(&format!("certs/{name}"), bytes);
        }
        files.add("certs/example.ocsp", "");
        files.add("blacklist.txt", "10.0.0.1\n");
        files.add("acme.hmac", "c2VjcmV0\n");
        files.add("etcd.password", "hunter2\n");
        for (name, like) in
            [("etcd-ca.pem", "good.pem"), ("etcd-client.pem", "good.pem"), ("etcd-client.key", "good.key")]
        {
            let bytes = files.0[Path::new(&format!("certs/{like}"))].clone();
            files.add(name, bytes);
        }
        files.add("gateway.toml", text.as_str());
        if let Err(report) = files.load() {
            panic!("{text}\n{report}");
        }
    }
}

#[test]
fn the_reference_is_up_to_date() {
    let path = root().join("../docs/config.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == reference(), "docs/config.md is out of date: run the tests with UPDATE=1");
}
