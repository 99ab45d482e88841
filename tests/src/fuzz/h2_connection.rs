//! The server's side of an HTTP/2 connection as the gateway puts it together, without ring and clock.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use gateway::config::model::Http2;
use gateway::http2::{self, Frame, Meter, Metered, Sink, Source, head};
use gateway::net::{Buf, Deadline, Timers, Until};
use gateway::proto::head::{Headers, Known, RequestHead, ResponseHead};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Small, so that inputs of libFuzzer's usual size reach them.
const SETTINGS: Http2 = Http2 { max_concurrent_streams: 8, stream_window: 512, connection_window: 1024 };
const HEADER_BYTES: u32 = 1024;
const HEADER_COUNT: usize = 16;

/// What a client that has stopped reading takes before.
const TAKEN: usize = 256;

/// Turns of the loop that the end of a connection may need besides those that read.
const LAST_TURNS: usize = 32;

/// What is written for a byte that is received, at most, by answers of a few bytes: HEADERS, DATA and trailers for a
/// request of ten bytes, and a window's update for a byte of a body.
const WRITTEN_PER_BYTE: usize = 32;

/// What a client sends: the first byte is the length of the pieces it comes in. In the second, bit 0 says that the bytes
/// have a preface of their own, bit 1 that the client stops reading.
pub fn h2_connection(input: &[u8]) {
    let [piece, bits, bytes @ ..] = input else { return };
    let preface = if bits & 1 == 0 { PREFACE } else { b"" };
    let stops = bits & 2 != 0;
    let client = Client {
        bytes: [preface, bytes].concat(),
        at: 0,
        piece: usize::from(*piece).max(1),
        pauses: false,
        written: Rc::default(),
        takes: if stops { TAKEN } else { usize::MAX },
    };
    let turns = 2 * client.bytes.len().div_ceil(client.piece) + LAST_TURNS;
    let (written, sent) = (client.written.clone(), client.bytes.len());
    let meter = Meter::new();
    let ended = serve(Metered::new(client, meter.clone()), &meter, turns);
    assert!(ended || stops || meter.flood().is_some(), "the connection goes on after its client's end");
    assert!(written.get() <= WRITTEN_PER_BYTE * sent + 1024, "{} bytes for {sent}", written.get());
}

/// As the gateway serves a connection, in so many turns. Says whether it has ended.
fn serve(io: Metered<Client>, meter: &Rc<Meter>, turns: usize) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let mut handshake = pin!(http2::builder(&SETTINGS, HEADER_BYTES).handshake::<_, Frame>(io));
    let mut left = 0..turns;
    let shaken = left.find_map(|_| match handshake.as_mut().poll(&mut cx) {
        Poll::Ready(shaken) => Some(shaken),
        Poll::Pending => None,
    });
    let mut h2 = match shaken {
        Some(Ok(h2)) => h2,
        Some(Err(_)) => return true,
        None => return false,
    };
    let mut requests: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    let (timers, mut is_calmed) = (Timers::default(), false);
    for _ in left {
        loop {
            match h2.poll_accept(&mut cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    requests.push(Box::pin(answer(request, respond, meter.clone(), timers.deadline())));
                }
                Poll::Ready(_) => return true,
                Poll::Pending => break,
            }
        }
        if meter.flood().is_some() && !is_calmed {
            is_calmed = true;
            h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        requests.retain_mut(|request| request.as_mut().poll(&mut cx).is_pending());
        let most = SETTINGS.max_concurrent_streams as usize;
        assert!(requests.len() <= most, "{} requests at once", requests.len());
    }
    false
}

/// Takes the request's body, and answers with what there was of it.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Frame>, meter: Rc<Meter>, end: Deadline) {
    let until = Until::only(&end);
    let ended = request.body().is_end_stream();
    let mut asked = RequestHead::default();
    let read = head::read_request(&request, ended, HEADER_COUNT, &mut asked);
    let status = match read {
        Ok(_) => {
            check_request(&asked);
            200
        }
        Err(error) => {
            assert!((400..=599).contains(&error.status()) && !error.detail().is_empty());
            error.status()
        }
    };
    let response = ResponseHead { status, ..ResponseHead::default() };
    let mut body = Source::new(request.into_body(), ended);
    loop {
        match body.next(&until).await {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(_) => return,
        }
    }
    super::check_fields(body.trailers());
    assert!(body.is_done());
    let Ok(stream) = respond.send_response(head::write_response(&response, None), false) else { return };
    meter.answered();
    let mut sink = Sink::new(stream);
    let mut trailers = Headers::default();
    trailers.append_raw(b"x-end", b"1");
    let sent = sink.data(Buf::copy_of(b"answer")).and_then(|()| sink.finish(&trailers));
    if sent.is_ok() && sink.ready(&until).await.is_ok() {
        meter.sent_data(sink.sent() as usize);
    }
}

fn check_request(head: &RequestHead) {
    super::check_fields(&head.headers);
    assert!(head.target.starts_with(b"/") || head.target == b"*");
    assert!(!head.authority.is_empty() && !head.headers.contains(&Known::Host));
    assert!(head.headers.len() <= HEADER_COUNT);
}

/// Sends its bytes a piece at a time, with a pause behind each, and then no more.
struct Client {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    pauses: bool,
    written: Rc<Cell<usize>>,
    takes: usize,
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pauses = !self.pauses;
        if !self.pauses {
            return Poll::Pending;
        }
        let n = self.piece.min(room.remaining()).min(self.bytes.len() - self.at);
        room.put_slice(&self.bytes[self.at..][..n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = bytes.len().min(self.takes - self.written.get());
        if n == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        self.written.set(self.written.get() + n);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
