use super::*;

const DOCUMENT: &str = "\
# Title

```rings
pure   proto < config < route, filter
io     net < proxy
glue   control < cli
```

The table is in `route/table.rs`, both versions in `net/{h1,h2}.rs`. Not paths: `GET /x`, `/proc/sys`, `a::b`, `x`.

```folders
gateway/src/   the library
  proxy/       handles a request
```
";

fn rings() -> Rings {
    Rings::parse(DOCUMENT).expect("the sample is well formed")
}

fn paths(source: &str) -> Vec<(usize, String)> {
    rust::names(source).into_iter().map(|name| (name.line, name.path)).collect()
}

#[test]
fn ranks_rise_from_left_to_right_and_from_line_to_line() {
    let rings = rings();
    let order = ["proto", "config", "route", "net", "proxy", "control", "cli"].map(|name| rings.rank(name));
    assert!(order.is_sorted() && order.iter().all(Option::is_some), "{order:?}");
    assert_eq!(rings.rank("route"), rings.rank("filter"));
    assert_eq!(rings.rank("main"), None);
}

#[test]
fn use_groups_are_expanded_with_the_lines_they_are_on() {
    let source = "use crate::{\n    proto::{head, h1::parse},\n    config,\n};\nfn f() { crate::net::dial() }\n";
    let expected =
        [(2, "crate::proto::head"), (2, "crate::proto::h1::parse"), (3, "crate::config"), (5, "crate::net::dial")];
    assert_eq!(paths(source), expected.map(|(line, path)| (line, path.to_owned())));
}

#[test]
fn comments_literals_and_test_modules_name_nothing() {
    for source in [
        "/// See [`crate::net::dial`].\n// crate::net\n/* crate::net::x\n */",
        "const A: &str = \"crate::net::x \\\" crate::net::y\";",
        "const B: &str = r#\"a \" crate::net::x\"#; const C: &[u8] = br\"crate::net::y\";",
        "#[cfg(test)]\nmod tests { use std::fs::read; fn f() { crate::cli::x() } }",
        "#[cfg(test)]\nuse crate::cli::x;",
    ] {
        assert_eq!(paths(source), [], "{source}");
    }
    let after = "fn f<'a>(x: &'a u8) -> char { '\"' }\n#[cfg(test)]\nmod tests;\nuse crate::net::dial;";
    assert_eq!(paths(after), [(4, "crate::net::dial".to_owned())]);
}

#[test]
fn each_rule_finds_what_it_forbids_and_nothing_else() {
    let cases = [
        ("proxy/mod.rs", "use crate::net::dial;", None),
        ("proxy/mod.rs", "use crate::proxy::pump;", None),
        ("net/mod.rs", "use crate::proxy::handle;", Some("net is not above proxy")),
        ("route/table.rs", "use crate::filter::x;", Some("route is not above filter")),
        ("route/table.rs", "use crate::{config, cli::run};", Some("route is not above cli")),
        ("new/mod.rs", "", Some("not in the rings")),
        ("net/ring.rs", "use tokio_uring::net;", None),
        ("proxy/mod.rs", "fn f() { tokio_uring::spawn(g()) }", Some("only net/")),
        ("control/health.rs", "use aya::Ebpf;", Some("only xdp/")),
        ("control/source.rs", "fn f() { std::fs::read(x) }", None),
        ("control/reload.rs", "fn f() { std::fs::read(\"/proc/stat\") }", None),
        ("control/reload.rs", "use std::fs; fn f() { fs::read_to_string(x) }", Some("only control/source")),
        ("route/table.rs", "use std::net::{IpAddr, SocketAddr}; use std::time::{Duration, Instant};", None),
        ("route/table.rs", "use std::net::{IpAddr, TcpStream};", Some("no std::net::TcpStream")),
        ("route/table.rs", "fn f() { Instant::now() }", Some("no Instant::now")),
        ("proxy/mod.rs", "fn f() { Instant::now() }", None),
        ("config/mod.rs", "use tokio::sync::mpsc;", Some("no tokio")),
    ];
    for (path, source, expected) in cases {
        let found = violations(path, source, &rings());
        match expected {
            None => assert_eq!(found, [""; 0], "{path}: {source}"),
            Some(expected) => assert!(found.len() == 1 && found[0].contains(expected), "{path}: {source}: {found:?}"),
        }
    }
}

#[test]
fn paths_that_the_document_names_must_exist() {
    let missing = missing_paths(DOCUMENT, |path| path == "net/h1.rs");
    let expected = ["gateway/src/", "net/h2.rs", "proxy/", "route/table.rs"];
    assert_eq!(missing, expected.map(|path| format!("ARCHITECTURE.md names {path}, which does not exist")));
    assert_eq!(missing_paths(DOCUMENT, |_| true), [""; 0]);
}
