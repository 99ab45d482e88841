//! Good configurations and what they mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::certificates;
use super::files::{MapFiles, now};
use crate::config::model::*;
use crate::config::reference::toml_text;
use crate::config::{Loaded, load, reference, schema};

fn loaded(text: &str) -> Loaded {
    let mut files = certificates::files();
    files.add("gateway.toml", text);
    files.load().unwrap_or_else(|report| panic!("{report}"))
}

fn config(text: &str) -> Config {
    loaded(text).config
}

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
        // Private keys are not committed, not even for an example.
        for name in ["example", "api"] {
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
    assert!(examples >= 5);
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
    assert_eq!(config.xdp, Xdp { interfaces: vec![], mode: XdpMode::Auto });
}

/// A file with every table that has defaults; each may be filled with `keys`.
fn file_with(keys: impl Fn(&str) -> String) -> String {
    format!(
        "[gateway]\n{}[admin]\n{}[access_log]\n{}[xdp]\n{}\
         [[listener]]\nname = \"web\"\naddress = \"0.0.0.0:443\"\n{}\
         [listener.tls]\ncertificates = [\"c\"]\n{}[listener.limits]\n{}[listener.path_normalisation]\n{}\
         [listener.http2]\n{}\
         [[certificate]]\nname = \"c\"\nchain = \"certs/good.pem\"\nkey = \"certs/good.key\"\n{}\
         [[listener]]\nname = \"pg\"\naddress = \"0.0.0.0:5432\"\nprotocol = \"tcp\"\n\
         [[l4_route]]\nname = \"l\"\ncluster = \"api\"\n{}\
         [[cluster]]\nname = \"api\"\nendpoints = [\"10.0.0.1:80\"]\n{}[cluster.tls]\n{}\
         [[route]]\nname = \"r\"\ncluster = \"api\"\n{}[route.request_headers]\n{}\
         [[route]]\nname = \"s\"\nredirect = {{ host = \"a\", {} }}\n\
         [[route]]\nname = \"t\"\nrespond = {{ status = 200, {} }}\n\
         [[route]]\nname = \"u\"\ncluster = \"api\"\nwebsocket = {{ {} }}\n",
        keys("Gateway"),
        keys("Admin"),
        keys("AccessLog"),
        keys("Xdp"),
        keys("Listener"),
        keys("ListenerTls"),
        keys("Limits"),
        keys("PathNormalisation"),
        keys("Http2"),
        keys("Certificate"),
        keys("L4Route"),
        keys("Cluster"),
        keys("ClusterTls"),
        keys("Route"),
        keys("HeaderEdits"),
        keys("Redirect").trim_end().replace('\n', ", "),
        keys("Respond").trim_end().replace('\n', ", "),
        keys("WebSocketTable").trim_end(),
    )
}

/// The keys of a table as the schema shows them under `what`.
fn keys_with(what: &str, table: &str) -> String {
    let schema = schema().to_value();
    let properties = schema["$defs"][table]["properties"].as_object().unwrap().clone();
    let value = |schema: &serde_json::Value| schema.get(what).map(toml_text);
    properties.iter().filter_map(|(key, schema)| Some(format!("{key} = {}\n", value(schema)?))).collect()
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
        format!("[[access]]\n{}", examples("Access")),
        format!("[[certificate]]\n{}", examples("Certificate")),
        format!("[[listener]]\n{}[listener.limits]\n{}", examples("Listener"), examples("Limits")),
        format!(
            "[[listener]]\n{}[listener.path_normalisation]\n{}",
            examples("Listener"),
            examples("PathNormalisation")
        ),
        format!("[[listener]]\n{}[listener.http2]\n{}", examples("Listener"), examples("Http2")),
        format!("{l4_lists}[[l4_route]]\n{}", without(examples("L4Route"), &["clusters"])),
        format!("{l4_lists}[[l4_route]]\n{}", without(examples("L4Route"), &["cluster"])),
        format!("[[cluster]]\n{}", examples("Cluster")),
        format!(
            "[[cluster]]\nname = \"a\"\nendpoints = [{{ {} }}]\n",
            examples("EndpointTable").trim_end().replace('\n', ", ")
        ),
        format!("[[cluster]]\nname = \"a\"\nendpoints = []\n[cluster.tls]\n{}", examples("ClusterTls")),
        format!("{lists}[[route]]\n{}", without(examples("Route"), &["clusters"])),
        format!("{lists}[[route]]\n{}", without(examples("Route"), &["cluster"])),
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
        for (name, like) in [("example.pem", "good.pem"), ("example.key", "good.key"), ("internal-ca.pem", "good.pem")]
        {
            let bytes = files.0[Path::new(&format!("certs/{like}"))].clone();
            files.add(&format!("certs/{name}"), bytes);
        }
        files.add("blacklist.txt", "10.0.0.1\n");
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

#[test]
fn two_files_that_mean_the_same_compare_equal() {
    let one = "[[cluster]]\nname = \"a\"\nendpoints = [\"10.0.0.1:80\"]\nconnect_timeout = \"1m30s\"\n\
               [[route]]\nname = \"r\"\ncluster = \"a\"\nmatch = { path_prefix = \"/x/\" }\n";
    let other = "# the same\n[[route]]\nname = \"r\"\nclusters = [{ name = \"a\", weight = 1 }]\n\
                 match.path_prefix = \"/x\"\ntimeout = \"15000ms\"\n\
                 [[cluster]]\nendpoints = [{ address = \"10.0.0.1:80\", weight = 1 }]\nname = \"a\"\n\
                 connect_timeout = \"90s\"\n";
    assert_eq!(config(one), config(other));
}

#[test]
fn a_route_is_read_in_full() {
    let config = config(
        r#"
        [[listener]]
        name = "web"
        address = "127.0.0.1:0"
        [[listener]]
        name = "other"
        address = "127.0.0.1:0"
        [[cluster]]
        name = "a"
        endpoints = ["10.0.0.1:80", "API.internal:80", { address = "[::1]:80", weight = 3 }]
        [[cluster]]
        name = "b"
        endpoints = ["10.0.0.2:80"]
        [[route]]
        name = "r"
        listeners = ["other"]
        hosts = ["Example.COM", "*.example.com", "*"]
        match = { path_prefix = "/v1/", methods = ["GET", "PURGE"], headers = { X-B = "1", x-a = { present = false } } }
        clusters = [{ name = "b", weight = 9 }, { name = "a", weight = 1 }]
        rewrite = { path_prefix = "/", host = "Internal:80" }
        timeout = "0s"
        body_bytes = "10MB"
        request_headers = { remove = ["X-C"], set = { z = "1", a = "2" }, add = { l = ["3", "4"] } }
        "#,
    );
    assert_eq!(config.clusters[0].endpoints[1].address, EndpointAddress::Name("api.internal".into(), 80));
    assert_eq!(config.clusters[0].endpoints[2].weight, 3);
    let route = &config.routes[0];
    assert_eq!(route.listeners, [ListenerId(1)]);
    let hosts =
        [HostPattern::Exact("example.com".into()), HostPattern::Suffix(".example.com".into()), HostPattern::Any];
    assert_eq!(route.hosts, hosts);
    assert_eq!(route.matcher.path, PathMatch::Prefix("/v1".into()));
    let headers: Vec<_> = route.matcher.headers.iter().map(|header| (header.name.as_str(), &header.value)).collect();
    assert_eq!(headers, [("x-b", &ValueMatch::Exact("1".into())), ("x-a", &ValueMatch::Present(false))]);
    let Action::Forward(forward) = &route.action else { panic!() };
    let shares: Vec<_> = forward.clusters.iter().map(|share| (share.cluster.0, share.weight)).collect();
    assert_eq!(shares, [(1, 9), (0, 1)]);
    assert_eq!(forward.rewrite_host.as_deref(), Some("internal:80"));
    assert_eq!((route.timeout, route.body_bytes), (None, Some(10_000_000)));
    let set: Vec<_> = route.request_headers.set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(set, [("z", "1"), ("a", "2")], "in the order of the file");
    assert_eq!(route.request_headers.add.len(), 2);
}

#[test]
fn a_regex_matches_the_whole_text() {
    let config = config("[[route]]\nname = \"r\"\nmatch = { path_regex = \"/a|/b\" }\nrespond = { status = 200 }\n");
    let PathMatch::Regex(Pattern(regex)) = &config.routes[0].matcher.path else { panic!() };
    assert!(regex.is_match(b"/a") && regex.is_match(b"/b"));
    assert!(!regex.is_match(b"/ab") && !regex.is_match(b"x/b") && !regex.is_match(b"/b\n"));
}

#[test]
fn a_certificate_without_hosts_serves_those_it_covers() {
    let certificate = |hosts: &str| {
        let text =
            format!("[[certificate]]\nname = \"c\"\nchain = \"certs/good.pem\"\nkey = \"certs/good.key\"\n{hosts}");
        config(&text).certificates.remove(0).hosts
    };
    assert_eq!(certificate(""), ["example.com", "*.example.com"]);
    assert_eq!(certificate("hosts = [\"a.Example.com\"]\n"), ["a.example.com"]);
}

#[test]
fn sources_come_from_the_file_and_from_lists() {
    let mut files = MapFiles::default();
    files.add(
        "conf.d/deny.toml",
        "[[access]]\nname = \"a\"\naction = \"deny\"\nsources = [\"10.0.0.0/8\"]\nsource_files = [\"../l.txt\"]\n",
    );
    files.add("l.txt", "192.0.2.1 # one\r\n\n# nothing\n10.0.0.0/8\n2001:db8::/32");
    files.add("gateway.toml", "include = [\"conf.d/*.toml\"]\n");
    let loaded = files.load().unwrap_or_else(|report| panic!("{report}"));
    let sources: Vec<_> = loaded.config.access[0].sources.iter().map(|net| net.to_string()).collect();
    assert_eq!(sources, ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]);
    let read: Vec<_> = loaded.files.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(read, ["gateway.toml", "conf.d/deny.toml", "conf.d/../l.txt"]);
}

#[test]
fn no_check_is_quadratic_in_the_number_of_routes() {
    let mut text = String::from("[[listener]]\nname = \"web\"\naddress = \"0.0.0.0:80\"\n");
    for i in 0..10_000 {
        text += &format!(
            "[[cluster]]\nname = \"c{i}\"\nendpoints = [\"10.0.0.1:80\"]\n\
             [[route]]\nname = \"r{i}\"\nhosts = [\"h{i}.example.com\"]\nmatch = {{ path_prefix = \"/p{i}\" }}\ncluster = \"c{i}\"\n"
        );
    }
    // Every name wrong is the worst case of all: an error each, with a suggestion.
    let wrong = text.replace("cluster = \"c", "cluster = \"k");
    let start = std::time::Instant::now();
    assert_eq!(config(&text).routes.len(), 10_000);
    let good = start.elapsed();
    let mut files = MapFiles::default();
    files.add("gateway.toml", wrong);
    let report = files.load().unwrap_err();
    assert_eq!(report.diagnostics.len(), 10_000);
    let bad = start.elapsed() - good;

    // This is a build without optimisations beside other tests; a quadratic check would take minutes.
    assert!(good.max(bad) < Duration::from_secs(10), "{good:?} {bad:?}");
}
