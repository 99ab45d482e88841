use std::fs;
use std::time::Instant;

use super::*;
use crate::metrics::access_log::queue::LogSink;
use crate::metrics::access_log::{Format, Record, samples};
use crate::metrics::registry::Registry;

/// No writer here has more to do than some kilobytes.
const LIMIT: Duration = Duration::from_secs(10);

fn sink(writer: &LogWriter, registry: &Registry, worker: usize) -> LogSink {
    let format = Format::compile("line %CONNECTION_ID%").unwrap();
    LogSink::new(Arc::new(LineFormat::Text(format)), writer.queue(), registry.worker().clone(), worker)
}

fn record(connection_id: u64) -> Record<'static> {
    Record { connection_id, ..samples::unreadable() }
}

#[test]
fn every_line_of_every_worker_is_written_before_the_writer_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let writer = LogWriter::start(&LogTarget::File(path.clone()), Arc::default()).unwrap();
    let registry = Registry::new(3);
    thread::scope(|scope| {
        for worker in 0..3 {
            let mut sink = sink(&writer, &registry, worker);
            scope.spawn(move || (0..5_000).for_each(|id| sink.write(&record(id))));
        }
    });
    assert!(writer.finish(LIMIT));
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 15_000);
    assert!(text.lines().all(|line| line.strip_prefix("line ").is_some_and(|id| id.parse::<u64>().is_ok())));
    assert_eq!(registry.worker().sum(|shard| &shard.log_lines), 15_000);
}

#[test]
fn after_a_rotation_lines_go_to_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let writer = LogWriter::start(&LogTarget::File(path.clone()), Arc::default()).unwrap();
    let registry = Registry::new(1);
    let mut sink = sink(&writer, &registry, 0);
    sink.write(&record(1));
    sink.flush();
    fs::rename(&path, &rotated).unwrap();
    writer.reopen();
    // The file is opened by another thread: until then, lines go to the old one.
    let start = Instant::now();
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let mut last = 1;
    while size(&path) == 0 {
        let before = size(&rotated);
        last += 1;
        sink.write(&record(last));
        sink.flush();
        // One at a time: with more on its way than the queue holds, lines are dropped.
        while size(&path) == 0 && size(&rotated) == before {
            assert!(start.elapsed() < LIMIT);
            thread::yield_now();
        }
    }
    drop(sink);
    assert!(writer.finish(LIMIT));
    let both = fs::read_to_string(&rotated).unwrap() + &fs::read_to_string(&path).unwrap();
    let all: Vec<String> = (1..=last).map(|id| format!("line {id}")).collect();
    assert_eq!(both.lines().collect::<Vec<_>>(), all);
}

#[test]
fn a_file_that_cannot_be_opened_anew_leaves_the_old_one_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (path, gone) = (dir.path().join("logs/access.log"), dir.path().join("gone"));
    fs::create_dir(dir.path().join("logs")).unwrap();
    let writer = LogWriter::start(&LogTarget::File(path), Arc::default()).unwrap();
    fs::rename(dir.path().join("logs"), &gone).unwrap();
    writer.reopen();
    let mut sink = sink(&writer, &Registry::new(1), 0);
    sink.write(&record(1));
    drop(sink);
    assert!(writer.finish(LIMIT));
    assert_eq!(fs::read_to_string(gone.join("access.log")).unwrap(), "line 1\n");
}

#[test]
fn a_target_that_cannot_be_opened_is_an_error_at_once() {
    let target = LogTarget::File("/nonexistent/access.log".into());
    assert_eq!(LogWriter::start(&target, Arc::default()).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn failed_writes_are_counted_and_the_writer_goes_on() {
    let errors = Arc::new(AtomicU64::new(5));
    let writer = LogWriter::start(&LogTarget::File("/dev/full".into()), errors.clone()).unwrap();
    let registry = Registry::new(1);
    let mut sink = sink(&writer, &registry, 0);
    for id in 0..2 {
        sink.write(&record(id));
        sink.flush();
    }
    drop(sink);
    assert!(writer.finish(LIMIT));
    assert_eq!(errors.load(Relaxed), 7);
}

#[test]
fn a_sink_that_is_still_alive_does_not_keep_the_process_from_ending() {
    let dir = tempfile::tempdir().unwrap();
    let writer = LogWriter::start(&LogTarget::File(dir.path().join("log")), Arc::default()).unwrap();
    let sink = sink(&writer, &Registry::new(1), 0);
    assert!(!writer.finish(Duration::from_millis(1)));
    drop(sink);
}
