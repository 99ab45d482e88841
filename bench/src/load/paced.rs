//! HTTP/2 at a fixed rate: a request is sent when it is due, whether or not those before it have been answered, and its
//! latency counts from that time.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::runtime;
use tokio::task::{JoinSet, LocalSet};

use super::Outcome;
use super::grpc;
use super::h2load::Streams;
use crate::poll;

/// How long answers are waited for when the time is up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends `per_second` requests a second, over all connections of `what` in turn. Those of `warm_up` are not counted.
pub fn run(what: Streams, per_second: f64, target: SocketAddr, warm_up: Duration, time: Duration) -> Result<Outcome> {
    poll::exact_timers();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, send(what, per_second, target, warm_up, time))
}

async fn send(
    what: Streams,
    per_second: f64,
    target: SocketAddr,
    warm_up: Duration,
    time: Duration,
) -> Result<Outcome> {
    let mut clients = Vec::new();
    for _ in 0..what.connections {
        clients.push(grpc::connect(target).await?);
    }
    let alarm = Alarm::new()?;
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let begin = Instant::now();
    let (counted, end) = (begin + warm_up, begin + warm_up + time);
    let dues = (0u32..).map(|number| begin + Duration::from_secs_f64(f64::from(number) / per_second));
    let mut calls = JoinSet::new();
    for (due, client) in dues.take_while(|due| *due < end).zip(clients.iter().cycle()) {
        alarm.wait_until(due).await?;
        while calls.try_join_next().is_some() {}
        let (client, outcome) = (client.clone(), outcome.clone());
        calls.spawn_local(async move {
            let result = call(client, what.message).await;
            let mut outcome = outcome.borrow_mut();
            match result {
                Err(error) => {
                    outcome.failed += 1;
                    outcome.why = Some(format!("{error:#}"));
                }
                Ok(()) if due < counted => {}
                Ok(()) => {
                    outcome.done += 1;
                    outcome.latency.saturating_record(due.elapsed().as_nanos() as u64);
                }
            }
        });
    }
    let all_answered = async { while calls.join_next().await.is_some() {} };
    let _too_late = tokio::time::timeout(PATIENCE, all_answered).await;
    let mut outcome = outcome.take();
    outcome.unanswered = calls.len() as u64;
    outcome.took = time;
    Ok(outcome)
}

/// One request and its answer, to the end.
async fn call(client: SendRequest<Bytes>, message: Option<u32>) -> Result<()> {
    let (response, mut outgoing) =
        client.ready().await?.send_request(grpc::request("Call", message)?, message.is_none())?;
    if let Some(length) = message {
        outgoing.send_data(grpc::message(length), true)?;
    }
    let response = response.await?;
    ensure!(response.status() == 200, "answered with {}", response.status());
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    if message.is_some() {
        grpc::check_status(body.trailers().await?)?;
    }
    Ok(())
}

/// A clock that wakes us on the microsecond: the runtime's own timers count milliseconds.
struct Alarm(AsyncFd<std::os::fd::OwnedFd>);

impl Alarm {
    fn new() -> Result<Alarm> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the timer is ours, and is closed when the `AsyncFd` that has it is dropped, not before.
        Ok(Alarm(unsafe { AsyncFd::register(timer)? }))
    }

    /// Returns at once when `due` is over; then others have their turn first.
    async fn wait_until(&self, due: Instant) -> Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let at = Timespec::try_from(left).context("a due time in another age")?;
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        let mut ready = self.0.readable().await?;
        // How often it has rung: once.
        rustix::io::read(&self.0, &mut [0; 8])?;
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_rings_when_it_is_due_and_not_before() {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let alarm = Alarm::new().unwrap();
            for wait in [Duration::from_micros(300), Duration::ZERO, Duration::from_millis(2)] {
                let due = Instant::now() + wait;
                alarm.wait_until(due).await.unwrap();
                assert!(Instant::now() >= due, "{wait:?}");
            }
        });
    }
}
