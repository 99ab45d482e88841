use std::os::unix::fs::MetadataExt;

use super::*;
use crate::control::store::segment;

fn directory() -> (tempfile::TempDir, Directory) {
    let temporary = tempfile::tempdir().unwrap();
    let store = Directory::open(temporary.path().join("a/store")).unwrap();
    (temporary, store)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn a_value_is_there_until_another_takes_its_place() {
    let (_temporary, store) = directory();
    assert_eq!(store.get("certificates/auto").unwrap(), None);
    store.put("certificates/auto", b"first").unwrap();
    assert_eq!(store.get("certificates/auto").unwrap().unwrap(), b"first");
    store.put("certificates/auto", b"second").unwrap();
    let reopened = Directory::open(store.root.clone()).unwrap();
    assert_eq!(reopened.get("certificates/auto").unwrap().unwrap(), b"second");
}

#[test]
fn only_the_owner_may_read() {
    let (temporary, store) = directory();
    store.put("acme/letsencrypt/account", b"key").unwrap();
    let _lock = store.lock("renewal").unwrap();
    for (path, expected) in [
        ("a", 0o700),
        ("a/store", 0o700),
        ("a/store/acme", 0o700),
        ("a/store/acme/letsencrypt", 0o700),
        ("a/store/acme/letsencrypt/account", 0o600),
        ("a/store/locks/renewal", 0o600),
    ] {
        assert_eq!(mode(&temporary.path().join(path)), expected, "{path}");
    }
}

#[test]
fn the_rights_of_others_to_a_directory_that_was_there_are_taken_away() {
    let temporary = tempfile::tempdir().unwrap();
    fs::set_permissions(temporary.path(), Permissions::from_mode(0o755)).unwrap();
    Directory::open(temporary.path().to_owned()).unwrap();
    assert_eq!(mode(temporary.path()), 0o700);
}

#[test]
fn a_list_has_the_keys_one_below_and_nothing_half_written() {
    let (_temporary, store) = directory();
    assert_eq!(store.list("certificates").unwrap(), [""; 0]);
    for key in ["certificates/b", "certificates/a", "certificates/c/d"] {
        store.put(key, b"x").unwrap();
    }
    fs::write(store.root.join("certificates/.e.1"), "half").unwrap();
    assert_eq!(store.list("certificates").unwrap(), ["certificates/a", "certificates/b"]);
}

#[test]
fn a_lock_has_one_holder() {
    let (_temporary, store) = directory();
    let first = store.lock("renewal").unwrap();
    assert!(first.is_some());
    assert!(store.lock("renewal").unwrap().is_none());
    assert!(store.lock("other").unwrap().is_some());
    drop(first);
    assert!(store.lock("renewal").unwrap().is_some());
}

#[test]
fn no_name_leads_out_of_the_directory() {
    let (_temporary, store) = directory();
    for key in ["", "..", "a/../b", "/etc/passwd", "a//b", ".a", "a/.b", "a b", "ä"] {
        assert!(matches!(store.get(key), Err(StoreError::Key(_))), "{key:?}");
    }
    for (name, expected) in
        [("example.com", "example.com"), ("customers/a", "customers%2Fa"), ("..", "%2E."), ("a:b", "a%3Ab")]
    {
        assert_eq!(segment(name), expected);
        store.put(&segment(name), b"x").unwrap();
    }
}
