//! What `global_rate_limit` means.

use std::time::Duration;

use super::good::{config, inline, keys_with};
use crate::config::model::*;
use crate::proto::head::HeaderName;

const PLAIN: &str = "domain = \"d\", cluster = \"limits\", descriptors = [[{ remote_address = {} }]]";

fn limit(keys: &str) -> GlobalRateLimit {
    let file = format!(
        "[[cluster]]\nname = \"limits\"\nprotocol = \"h2\"\nendpoints = []\n\
         [[route]]\nname = \"r\"\nrespond = {{ status = 200 }}\nfilters = [{{ global_rate_limit = {{ {keys} }} }}]\n"
    );
    match config(&file).routes.remove(0).filters.remove(0) {
        Filter::GlobalRateLimit(limit) => limit,
        other => panic!("{other:?}"),
    }
}

/// The one action of the one descriptor.
fn action(action: &str) -> DescriptorAction {
    let keys = format!("domain = \"d\", cluster = \"limits\", descriptors = [[{{ {action} }}]]");
    limit(&keys).descriptors.remove(0).remove(0)
}

/// The first example of each key.
fn examples(table: &str) -> String {
    inline(&keys_with("examples", table).replace(" = [", " = ").replace("]\n", "\n"))
}

#[test]
fn the_defaults_that_the_schema_shows_are_the_defaults() {
    assert_eq!(limit(&format!("{PLAIN}, {}", inline(&keys_with("default", "GlobalRateLimit")))), limit(PLAIN));
    let cases = [
        ("request_headers", "RequestHeaders", "header = \"x-a\", key = \"a\""),
        ("query_parameters", "QueryParameters", "parameter = \"a\", key = \"a\""),
        ("generic_key", "GenericKey", "value = \"a\""),
        ("header_value_match", "HeaderValueMatch", "value = \"a\", headers = { x-a = \"b\" }"),
    ];
    for (name, table, plain) in cases {
        let defaults = inline(&keys_with("default", table));
        assert_eq!(action(&format!("{name} = {{ {plain}, {defaults} }}")), action(&format!("{name} = {{ {plain} }}")));
    }
    let defaults = inline(&keys_with("default", "MaskedAddress"));
    assert_eq!(action(&format!("masked_remote_address = {{ {defaults} }}")), action("masked_remote_address = {}"));
}

#[test]
fn every_example_in_the_schema_is_accepted() {
    let of_a_service = examples("GlobalRateLimit").replace("limits = \"shared\", ", "");
    assert_eq!(limit(&of_a_service).name, "per-customer");
    for line in keys_with("examples", "DescriptorAction").replace(" = [", " = ").replace("]\n", "\n").lines() {
        action(line);
    }
    for (name, table) in [
        ("request_headers", "RequestHeaders"),
        ("query_parameters", "QueryParameters"),
        ("masked_remote_address", "MaskedAddress"),
        ("generic_key", "GenericKey"),
        ("header_value_match", "HeaderValueMatch"),
    ] {
        action(&format!("{name} = {{ {} }}", examples(table)));
    }
}

#[test]
fn a_global_rate_limit_is_read_in_full() {
    let read = limit(
        r#"name = "n", domain = "shop", cluster = "limits", timeout = "50ms", match = { methods = ["POST"] },
           descriptors = [
             [{ source_cluster = "edge" }, { destination_cluster = {} }],
             [{ request_headers = { header = "X-User", key = "user", skip_if_absent = true } }],
             [{ request_headers = { header = ":path", key = "path" } }, { query_parameters = { parameter = "p", key = "q" } }],
             [{ remote_address = {} }, { masked_remote_address = { ipv4_prefix = 24, ipv6_prefix = 0 } }],
             [{ generic_key = { value = "login" } }, { generic_key = { value = "v", key = "k" } }],
             [{ header_value_match = { headers = { x-plan = "free" }, value = "free", expect_match = false } }],
           ],
           status = 503, headers = { x-why = "limit" }, grpc_resource_exhausted = true, ratelimit_headers = true,
           ratelimited_header = false, deny_on_error = true, status_on_error = 502"#,
    );
    let name = |text: &str| HeaderName::new(text).unwrap();
    let header =
        |from, key: &str, skip_if_absent| DescriptorAction::RequestHeader { from, key: key.into(), skip_if_absent };
    let generic = |key: &str, value: &str| DescriptorAction::GenericKey { key: key.into(), value: value.into() };
    let expected = GlobalRateLimit {
        name: "n".into(),
        when: read.when.clone(),
        domain: "shop".into(),
        judge: Judge::Service { cluster: ClusterId(0), timeout: Duration::from_millis(50) },
        descriptors: vec![
            vec![DescriptorAction::SourceCluster("edge".into()), DescriptorAction::DestinationCluster],
            vec![header(FieldSource::Header(name("x-user")), "user", true)],
            vec![
                header(FieldSource::Path, "path", false),
                DescriptorAction::QueryParameter { name: "p".into(), key: "q".into(), skip_if_absent: false },
            ],
            vec![
                DescriptorAction::RemoteAddress,
                DescriptorAction::MaskedRemoteAddress(Prefixes { ipv4: 24, ipv6: 0 }),
            ],
            vec![generic("generic_key", "login"), generic("k", "v")],
            vec![DescriptorAction::HeaderValueMatch {
                headers: vec![HeaderMatch { name: name("x-plan"), value: ValueMatch::Exact("free".into()) }],
                key: "header_match".into(),
                value: "free".into(),
                expect_match: false,
            }],
        ],
        status: 503,
        headers: vec![(name("x-why"), "limit".into())],
        grpc_resource_exhausted: true,
        ratelimit_headers: true,
        ratelimited_header: false,
        deny_on_error: true,
        status_on_error: 502,
    };
    assert_eq!(read, expected);
    assert_eq!(read.when.methods.len(), 1);
    for (field, from) in
        [("Host", FieldSource::Authority), (":authority", FieldSource::Authority), (":method", FieldSource::Method)]
    {
        assert_eq!(
            action(&format!("request_headers = {{ header = \"{field}\", key = \"k\" }}")),
            header(from, "k", false)
        );
    }
}
