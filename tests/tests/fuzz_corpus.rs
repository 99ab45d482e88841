//! Runs every committed fuzz input, so that a finding that was mended stays mended.

use std::path::Path;

use gateway_tests::fuzz::TARGETS;

#[test]
fn no_input_of_the_corpus_is_a_finding() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, check) in TARGETS {
        let files: Vec<_> =
            std::fs::read_dir(corpus.join(name)).expect(name).map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let input = std::fs::read(&file).unwrap();
            let outcome = std::panic::catch_unwind(|| check(&input));
            assert!(outcome.is_ok(), "{} is a finding", file.display());
        }
    }
}
