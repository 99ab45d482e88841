use super::super::record::samples;
use super::*;
use crate::metrics::registry::Registry;
use crate::metrics::shard::WorkerShard;

struct Bed {
    registry: Registry,
    sink: LogSink,
    inbox: Receiver<Message>,
}

fn bed(queue: usize) -> Bed {
    let registry = Registry::new(1);
    let (writer, inbox) = sync_channel(queue);
    let sink = LogSink::new(Arc::new(LineFormat::Json), writer, registry.worker().clone(), 0);
    Bed { registry, sink, inbox }
}

impl Bed {
    fn count(&self, counter: fn(&WorkerShard) -> &crate::metrics::shard::Counter) -> u64 {
        self.registry.worker().sum(counter)
    }

    fn counts(&self) -> (u64, u64) {
        (self.count(|shard| &shard.log_lines), self.count(|shard| &shard.log_lines_dropped))
    }
}

fn lines(inbox: &Receiver<Message>) -> usize {
    inbox
        .try_iter()
        .map(|message| match message {
            Message::Lines(batch) => batch.bytes().iter().filter(|byte| **byte == b'\n').count(),
            Message::Wake => 0,
        })
        .sum()
}

#[test]
fn lines_wait_in_the_buffer_until_a_flush() {
    let mut bed = bed(1);
    bed.sink.flush();
    bed.sink.write(&samples::unreadable());
    bed.sink.write(&samples::unreadable());
    assert_eq!(lines(&bed.inbox), 0);
    bed.sink.flush();
    assert_eq!(lines(&bed.inbox), 2);
    assert_eq!(bed.counts(), (2, 0));
}

#[test]
fn a_full_buffer_goes_by_itself() {
    let mut bed = bed(4);
    while bed.counts().0 == 0 {
        bed.sink.write(&samples::unreadable());
    }
    assert_eq!(lines(&bed.inbox) as u64, bed.counts().0);
}

#[test]
fn when_the_writer_is_behind_lines_are_dropped_and_counted_and_accepted_ones_kept() {
    let mut bed = bed(1);
    const WRITTEN: u64 = 1_000;
    for _ in 0..WRITTEN {
        bed.sink.write(&samples::unreadable());
    }
    let dropped = bed.counts().1;
    assert!(dropped > 0, "the queue holds one batch and the buffer another");
    assert!(bed.sink.buffer.len() < BATCH_BYTES + 4096);
    let mut received = lines(&bed.inbox) as u64;
    bed.sink.flush();
    received += lines(&bed.inbox) as u64;
    assert_eq!(received + dropped, WRITTEN);
    assert_eq!(bed.counts(), (received, dropped));
}

#[test]
fn buffers_come_home() {
    let mut bed = bed(1);
    bed.sink.write(&samples::unreadable());
    bed.sink.flush();
    assert_eq!(bed.sink.buffer.capacity(), 0);
    assert_eq!(lines(&bed.inbox), 1);
    bed.sink.write(&samples::unreadable());
    bed.sink.flush();
    assert!(bed.sink.buffer.capacity() > 0, "the first buffer is back");
}

#[test]
fn without_a_writer_lines_are_dropped_and_counted() {
    let Bed { registry, mut sink, inbox } = bed(1);
    drop(inbox);
    sink.write(&samples::unreadable());
    sink.flush();
    sink.write(&samples::unreadable());
    drop(sink);
    assert_eq!(registry.worker().sum(|shard| &shard.log_lines_dropped), 2);
}

#[test]
fn the_last_lines_go_when_the_sink_goes() {
    let Bed { registry, mut sink, inbox } = bed(1);
    sink.write(&samples::unreadable());
    drop(sink);
    assert_eq!(lines(&inbox), 1);
    assert_eq!(registry.worker().sum(|shard| &shard.log_lines), 1);
}
