//! A tunnel: bytes go both ways between a client and an origin, and nobody here knows what they mean.
//!
//! It is two body pumps at once. Each direction ends by itself (half-close): where one side says that it sends no more,
//! the other is told so, and may still answer. An error ends both, and whoever is left must learn that the stream was
//! cut: the caller aborts what it still has.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::Poll;

use super::RequestBody;
use super::pump::{BodySink, BodySource, PumpError, pump};
use crate::net::{Passed, Until};

/// Why a tunnel ended before both sides had said that they send no more.
#[derive(Debug)]
pub enum TunnelError {
    /// The client's connection broke.
    Client(io::Error),
    /// The origin's connection broke.
    Origin(io::Error),
    /// A deadline passed.
    TimedOut(Passed),
}

/// Relays until both directions have ended. `until` is renewed by progress in either direction.
///
/// What was read and written, the halves know: also after an error, and after a dropped future.
pub async fn tunnel(
    client: (&mut impl RequestBody, &mut impl BodySink),
    origin: (&mut impl BodySource, &mut impl BodySink),
    until: &Until<'_>,
) -> Result<(), TunnelError> {
    let up_ended = Cell::new(false);
    let mut up = pin!(async {
        match pump(client.0, origin.1, u64::MAX, until).await {
            Ok(()) => up_ended.set(true),
            Err(error) => return error,
        }
        // An origin that is silent would never find out that nobody is left to hear it.
        PumpError::Source(client.0.broken().await)
    });
    let mut down = pin!(pump(origin.0, client.1, u64::MAX, until));
    let mut down_ended = false;
    let relayed = std::future::poll_fn(|cx| {
        if let Poll::Ready(error) = up.as_mut().poll(cx) {
            return Poll::Ready(Err(on_side(error, TunnelError::Client, TunnelError::Origin)));
        }
        if !down_ended && let Poll::Ready(result) = down.as_mut().poll(cx) {
            result.map_err(|error| on_side(error, TunnelError::Origin, TunnelError::Client))?;
            down_ended = true;
        }
        if up_ended.get() && down_ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    relayed.await.map_err(|error| until.passed().map_or(error, TunnelError::TimedOut))
}

fn on_side(error: PumpError, source: Side, sink: Side) -> TunnelError {
    match error {
        PumpError::Source(error) => source(error),
        PumpError::Sink(error) => sink(error),
        PumpError::TooLong => source(io::ErrorKind::FileTooLarge.into()),
    }
}

type Side = fn(io::Error) -> TunnelError;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;
    use crate::net::{Buf, Timers};
    use crate::proto::head::Headers;

    /// What a side sends, step by step; it is silent while there is no step.
    #[derive(Default)]
    struct Says {
        steps: RefCell<VecDeque<io::Result<Option<&'static str>>>>,
        is_broken: Cell<bool>,
        trailers: Headers,
    }

    impl BodySource for &Says {
        async fn next(&mut self, until: &Until<'_>) -> io::Result<Option<Buf>> {
            let step = std::future::poll_fn(|cx| match self.steps.borrow_mut().pop_front() {
                Some(step) => Poll::Ready(step),
                None => until.poll_passed(cx).map(Err),
            });
            Ok(step.await?.map(|text| Buf::copy_of(text.as_bytes())))
        }

        fn trailers(&self) -> &Headers {
            &self.trailers
        }
    }

    impl RequestBody for &Says {
        fn is_done(&self) -> bool {
            unreachable!("a tunnel does not ask")
        }

        fn has_data(&mut self) -> bool {
            unreachable!("a tunnel does not ask")
        }

        fn received(&self) -> u64 {
            unreachable!("a tunnel does not ask")
        }

        async fn broken(&mut self) -> io::Error {
            std::future::poll_fn(|_| match self.is_broken.get() {
                true => Poll::Ready(io::ErrorKind::ConnectionReset.into()),
                false => Poll::Pending,
            })
            .await
        }
    }

    /// What a side hears; `!` is the end, and it hears nothing more once it is deaf.
    #[derive(Default)]
    struct Hears {
        text: RefCell<String>,
        deaf: bool,
    }

    impl BodySink for &Hears {
        async fn ready(&mut self, _: &Until<'_>) -> io::Result<()> {
            Ok(())
        }

        async fn data(&mut self, frame: Buf, _: &Until<'_>) -> io::Result<()> {
            if self.deaf {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.text.borrow_mut().push_str(std::str::from_utf8(frame.as_slice()).unwrap());
            Ok(())
        }

        async fn flush(&mut self, _: &Until<'_>) -> io::Result<()> {
            Ok(())
        }

        async fn finish(&mut self, _: &Headers, _: &Until<'_>) -> io::Result<()> {
            self.text.borrow_mut().push('!');
            Ok(())
        }
    }

    #[derive(Default)]
    struct Pair {
        client: (Says, Hears),
        origin: (Says, Hears),
    }

    impl Pair {
        fn run(&self, until: &Until<'_>, then: impl FnOnce(&Pair)) -> Poll<Result<(), TunnelError>> {
            let (mut from_client, mut to_client) = (&self.client.0, &self.client.1);
            let (mut from_origin, mut to_origin) = (&self.origin.0, &self.origin.1);
            let client = (&mut from_client, &mut to_client);
            let mut relay = pin!(tunnel(client, (&mut from_origin, &mut to_origin), until));
            let mut cx = Context::from_waker(Waker::noop());
            match relay.as_mut().poll(&mut cx) {
                Poll::Pending => {
                    then(self);
                    relay.as_mut().poll(&mut cx)
                }
                ready => ready,
            }
        }

        fn heard(&self) -> (String, String) {
            (self.client.1.text.borrow().clone(), self.origin.1.text.borrow().clone())
        }
    }

    #[test]
    fn each_direction_ends_by_itself() {
        let pair = Pair::default();
        pair.client.0.steps.borrow_mut().extend([Ok(Some("ping")), Ok(None)]);
        let ended = pair.run(&Until::never(), |pair| {
            assert_eq!(pair.heard(), (String::new(), "ping!".into()));
            pair.origin.0.steps.borrow_mut().extend([Ok(Some("pong")), Ok(None)]);
        });
        assert!(matches!(ended, Poll::Ready(Ok(()))), "{ended:?}");
        assert_eq!(pair.heard(), ("pong!".into(), "ping!".into()));
    }

    #[test]
    fn an_error_ends_both_directions_and_names_its_side() {
        let reset = || Err(io::ErrorKind::ConnectionReset.into());
        let pair = Pair::default();
        pair.client.0.steps.borrow_mut().push_back(reset());
        let ended = pair.run(&Until::never(), |_| ());
        assert!(matches!(ended, Poll::Ready(Err(TunnelError::Client(_)))), "{ended:?}");

        let pair = Pair::default();
        pair.origin.0.steps.borrow_mut().push_back(reset());
        let ended = pair.run(&Until::never(), |_| ());
        assert!(matches!(ended, Poll::Ready(Err(TunnelError::Origin(_)))), "{ended:?}");
        assert_eq!(pair.heard(), (String::new(), String::new()), "a cut is not an end");

        let pair = Pair { client: (Says::default(), Hears { deaf: true, ..Hears::default() }), ..Pair::default() };
        pair.origin.0.steps.borrow_mut().push_back(Ok(Some("lost")));
        let ended = pair.run(&Until::never(), |_| ());
        assert!(matches!(ended, Poll::Ready(Err(TunnelError::Client(_)))), "{ended:?}");
    }

    #[test]
    fn a_client_that_breaks_after_its_last_word_ends_the_other_direction() {
        let pair = Pair::default();
        pair.client.0.steps.borrow_mut().push_back(Ok(None));
        let ended = pair.run(&Until::never(), |pair| pair.client.0.is_broken.set(true));
        assert!(matches!(ended, Poll::Ready(Err(TunnelError::Client(_)))), "{ended:?}");
        assert_eq!(pair.heard(), (String::new(), "!".into()));
    }

    #[test]
    fn silence_in_both_directions_ends_at_the_idle_time() {
        let timers = Timers::default();
        let idle = timers.deadline();
        let ended = Pair::default().run(&Until::idle(&idle, Duration::ZERO, None), |_| {
            let fired = pin!(timers.clone().run()).poll(&mut Context::from_waker(Waker::noop()));
            assert!(fired.is_pending(), "timers run as long as the worker");
        });
        assert!(matches!(ended, Poll::Ready(Err(TunnelError::TimedOut(Passed::Idle)))), "{ended:?}");
    }
}
