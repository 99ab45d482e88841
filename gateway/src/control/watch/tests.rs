use std::os::unix::fs::symlink;

use super::*;

async fn expect_change(watch: &mut FileWatch) {
    tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.expect("a change is noticed");
}

/// What has happened so far has woken nobody, and does not.
async fn expect_quiet(watch: &mut FileWatch) {
    let event = tokio::time::timeout(Duration::from_millis(300), watch.next_event()).await;
    assert!(event.is_err(), "an event of a file");
}

struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        Bed { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn watch(&self, names: &[&str]) -> FileWatch {
        FileWatch::new(names.iter().map(|name| self.path(name)).collect()).unwrap()
    }
}

#[tokio::test]
async fn a_file_written_in_place_has_changed() {
    let bed = Bed::new();
    bed.write("gateway.toml", "a");
    let mut watch = bed.watch(&["gateway.toml"]);
    bed.write("gateway.toml", "longer");
    expect_change(&mut watch).await;
}

#[tokio::test]
async fn a_file_renamed_over_has_changed_and_may_change_again() {
    let bed = Bed::new();
    bed.write("gateway.toml", "a");
    let mut watch = bed.watch(&["gateway.toml"]);
    for text in ["b", "c"] {
        let new = bed.write(".gateway.toml.swp", text);
        fs::rename(new, bed.path("gateway.toml")).unwrap();
        expect_change(&mut watch).await;
    }
}

#[tokio::test]
async fn a_swapped_link_between_is_a_change_as_kubernetes_does_it() {
    let bed = Bed::new();
    for (version, text) in [("..1", "a"), ("..2", "b"), ("..3", "c")] {
        bed.write(&format!("{version}/gateway.toml"), text);
    }
    symlink("..1", bed.path("..data")).unwrap();
    symlink("..data/gateway.toml", bed.path("gateway.toml")).unwrap();
    let mut watch = bed.watch(&["gateway.toml"]);
    for version in ["..2", "..3"] {
        symlink(version, bed.path("..data_tmp")).unwrap();
        fs::rename(bed.path("..data_tmp"), bed.path("..data")).unwrap();
        expect_change(&mut watch).await;
    }
    bed.write("..3/gateway.toml", "in place behind the links");
    expect_change(&mut watch).await;
}

#[tokio::test]
async fn a_link_to_the_whole_directory_may_be_swapped() {
    let bed = Bed::new();
    bed.write("v1/gateway.toml", "a");
    bed.write("v2/gateway.toml", "b");
    symlink(bed.path("v1"), bed.path("current")).unwrap();
    let mut watch = bed.watch(&["current/gateway.toml"]);
    symlink("v2", bed.path("next")).unwrap();
    fs::rename(bed.path("next"), bed.path("current")).unwrap();
    expect_change(&mut watch).await;
}

#[tokio::test]
async fn a_missing_file_may_come_later_even_with_its_directories() {
    let bed = Bed::new();
    let mut watch = bed.watch(&["a/b/key.pem"]);
    bed.write("a/b/key.pem", "key");
    expect_change(&mut watch).await;
    fs::remove_dir_all(bed.path("a")).unwrap();
    expect_change(&mut watch).await;
    bed.write("a/b/key.pem", "other key");
    expect_change(&mut watch).await;
}

#[tokio::test]
async fn a_directory_changes_when_a_file_comes_into_it() {
    let bed = Bed::new();
    bed.write("conf.d/one.toml", "a");
    let mut watch = bed.watch(&["conf.d"]);
    bed.write("conf.d/two.toml", "b");
    expect_change(&mut watch).await;
}

#[tokio::test]
async fn other_files_beside_it_are_no_change() {
    let bed = Bed::new();
    bed.write("gateway.toml", "a");
    let mut watch = bed.watch(&["gateway.toml"]);
    bed.write("access.log", "line");
    watch.next_event().await;
    assert!(!watch.look());
    bed.write("gateway.toml", "longer");
    assert!(watch.look());
    assert!(!watch.look());
}

#[tokio::test]
async fn reading_the_file_is_no_event() {
    let bed = Bed::new();
    let path = bed.write("gateway.toml", "a");
    let mut watch = bed.watch(&["gateway.toml"]);
    fs::read(&path).unwrap();
    bed.write("gateway.toml", "longer");
    expect_change(&mut watch).await;
    fs::read(&path).unwrap();
    expect_quiet(&mut watch).await;
}

#[tokio::test]
async fn a_write_is_no_event_until_the_file_is_closed() {
    use std::io::Write;
    let bed = Bed::new();
    bed.write("gateway.toml", "a");
    let mut log = fs::File::create(bed.path("access.log")).unwrap();
    let mut watch = bed.watch(&["gateway.toml"]);
    for _ in 0..100 {
        log.write_all(b"line\n").unwrap();
    }
    expect_quiet(&mut watch).await;
    drop(log);
    watch.next_event().await;
    assert!(!watch.look());
}

#[tokio::test]
async fn the_list_may_be_replaced() {
    let bed = Bed::new();
    bed.write("old/a.toml", "a");
    bed.write("new/b.toml", "b");
    let mut watch = bed.watch(&["old/a.toml"]);
    watch.replace(vec![bed.path("new/b.toml")]);
    assert!(!watch.directories.contains_key(&bed.path("old")));
    bed.write("new/b.toml", "longer");
    expect_change(&mut watch).await;
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let bed = Bed::new();
    bed.write("gateway.toml", "a");
    let mut watch = bed.watch(&["gateway.toml"]);
    bed.write("gateway.toml", "longer");
    while watch.unrest_since.is_none() {
        let _ = tokio::time::timeout(Duration::from_millis(1), watch.changed()).await;
    }
    expect_change(&mut watch).await;
}

#[tokio::test]
async fn directories_are_watched_once_and_those_made_anew_again() {
    let bed = Bed::new();
    bed.write("a/one", "1");
    bed.write("b/two", "2");
    let mut watch = bed.watch(&["a/one", "b/two"]);
    assert_eq!(watch.directories.len(), 2);
    assert_eq!(watch.watch_directories(), 0, "nothing has changed");
    bed.write("a/one", "longer");
    expect_change(&mut watch).await;
    assert_eq!(watch.watch_directories(), 0, "a file has changed, and no directory");
    for _ in 0..3 {
        fs::remove_dir_all(bed.path("b")).unwrap();
        expect_change(&mut watch).await;
        bed.write("b/two", "made anew");
        expect_change(&mut watch).await;
        bed.write("b/two", "and changed after that");
        expect_change(&mut watch).await;
    }
}

#[test]
fn what_was_removed_moved_or_missed_may_have_been_a_directory_with_its_watch() {
    let overflow = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
    for (event, expected) in [
        (Ok(overflow), true),
        (Ok(notify::Event::new(EventKind::Other)), false),
        (Ok(notify::Event::new(EventKind::Remove(notify::event::RemoveKind::Folder))), true),
        (Ok(notify::Event::new(EventKind::Modify(ModifyKind::Name(notify::event::RenameMode::From)))), true),
        (Ok(notify::Event::new(EventKind::Modify(ModifyKind::Any))), false),
        (Err(notify::Error::generic("lost")), true),
    ] {
        assert_eq!(may_lose_a_watch(&event), expected, "{event:?}");
    }
}

#[test]
fn links_that_go_round_in_circles_end() {
    let bed = Bed::new();
    symlink("b", bed.path("a")).unwrap();
    symlink("a", bed.path("b")).unwrap();
    assert!(directories_of(&bed.path("a/gateway.toml")).contains(bed.dir.path()));
}
