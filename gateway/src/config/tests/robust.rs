//! Whatever the bytes are, there is a configuration or a report, and never a panic.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::certificates;
use super::files::MapFiles;
use crate::config::Severity;

/// Loads, and renders what there is to say: the report's own code must survive too.
fn load(bytes: Vec<u8>) {
    let mut files = certificates::files();
    files.add("gateway.toml", bytes);
    let report = files.load().map_or_else(|report| report, |loaded| loaded.warnings);
    report.render(true);
    report.to_json(Severity::Error);
}

/// The inputs of all bad configurations and all examples: most keys and most errors are near.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |directory: &str| {
        let entries = std::fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>()
    };
    let bad = read("src/config/tests/bad").join("");
    let bad = bad.split("=== ").skip(1).map(|case| case.split("---\n").next().unwrap());
    let bad = bad.map(|case| case.split_once('\n').unwrap().1.as_bytes().to_vec());
    bad.chain(read("examples").into_iter().map(String::into_bytes)).collect()
});

#[derive(Clone, Debug)]
enum Mutation {
    Set(u8),
    Insert(u8),
    Delete(usize),
    Copy(usize, usize),
}

fn mutation() -> impl Strategy<Value = (prop::sample::Index, Mutation)> {
    // What TOML and our values are made of is likelier to get past the parser.
    let byte = prop_oneof![3 => prop::sample::select(b"[]{}\"'=,.#\n\\*/:-0x".to_vec()), 1 => any::<u8>()];
    let what = prop_oneof![
        byte.clone().prop_map(Mutation::Set),
        byte.prop_map(Mutation::Insert),
        (1usize..20).prop_map(Mutation::Delete),
        (0usize..500, 1usize..50).prop_map(|(from, length)| Mutation::Copy(from, length)),
    ];
    (any::<prop::sample::Index>(), what)
}

fn apply(bytes: &mut Vec<u8>, at: usize, mutation: Mutation) {
    match mutation {
        Mutation::Set(byte) => bytes[at] = byte,
        Mutation::Insert(byte) => bytes.insert(at, byte),
        Mutation::Delete(length) => _ = bytes.drain(at..bytes.len().min(at + length)),
        Mutation::Copy(from, length) => {
            let from = from.min(bytes.len());
            let piece = bytes[from..bytes.len().min(from + length)].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        load(bytes);
    }

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        load(text.into_bytes());
    }

    #[test]
    fn mutated_configurations(
        seed in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let mut bytes = seed.get(&SEEDS).clone();
        for (at, mutation) in mutations {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                apply(&mut bytes, at, mutation);
            }
        }
        load(bytes);
    }

    #[test]
    fn mutated_certificates(
        mutations in prop::collection::vec(mutation(), 1..4),
        of_key in any::<bool>(),
    ) {
        let mut files = certificates::files();
        let path = std::path::Path::new(if of_key { "certs/good.key" } else { "certs/good.pem" });
        let mut bytes = files.0[path].clone();
        for (at, mutation) in mutations {
            let at = at.index(bytes.len());
            apply(&mut bytes, at, mutation);
        }
        files.0.insert(path.into(), bytes);
        let text = "[[certificate]]\nname = \"c\"\nchain = \"certs/good.pem\"\nkey = \"certs/good.key\"\n";
        files.add("gateway.toml", text);
        _ = files.load();
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_stack_overflow() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("x = {}{}", open.repeat(100_000), close.repeat(100_000));
        let mut files = MapFiles::default();
        files.add("gateway.toml", text);
        assert!(files.load().is_err());
    }
}

#[test]
fn a_file_that_is_not_utf8_says_in_which_line() {
    let mut files = MapFiles::default();
    files.add("gateway.toml", b"[gateway]\n\xff".to_vec());
    let report = files.load().unwrap_err().to_string();
    assert!(report.contains("cannot read gateway.toml: line 2 is not UTF-8"), "{report}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let report = MapFiles::default().load().unwrap_err().to_string();
    assert!(report.contains("cannot read gateway.toml: no such file"), "{report}");
}
