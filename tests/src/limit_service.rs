//! A rate limit service that says what a test wants: `envoy.service.ratelimit.v3.RateLimitService`.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use gateway::proto::grpc;
use gateway::proto::rate_limit_service::{Code, RateLimitRequest, RateLimitResponse, SHOULD_RATE_LIMIT};

use crate::conn::{Framing, Head};
use crate::h2::Options;
use crate::origin::{Script, Served, serve};
use crate::ports::any_port;
use crate::wait;

/// The service. It speaks HTTP/2 in the clear.
#[derive(Debug)]
pub struct LimitService {
    script: Script,
    asked: Receiver<Asked>,
    given_up: Receiver<()>,
}

/// A question that it was asked.
#[derive(Debug)]
pub struct Asked {
    /// The head of the call.
    pub head: Head,
    /// What it says.
    pub request: RateLimitRequest,
}

/// What the service says.
#[derive(Clone, Debug)]
pub enum Says {
    /// This message.
    Message(Box<RateLimitResponse>),
    /// A body that is no message.
    Garbage,
    /// A `grpc-status`, at once.
    Grpc(&'static str),
    /// An HTTP status without a body.
    Http(u16),
    /// Nothing.
    Nothing,
    /// It resets the stream.
    Reset,
}

impl Says {
    /// That a request is under its limits, and nothing else.
    pub fn ok() -> Says {
        Says::code(Code::Ok)
    }

    /// That a request is over a limit, and nothing else.
    pub fn over_limit() -> Says {
        Says::code(Code::OverLimit)
    }

    fn code(code: Code) -> Says {
        RateLimitResponse { overall_code: code.into(), ..RateLimitResponse::default() }.into()
    }
}

impl From<RateLimitResponse> for Says {
    fn from(message: RateLimitResponse) -> Says {
        Says::Message(Box::new(message))
    }
}

impl LimitService {
    /// Answers each question as `answer` says.
    pub fn start(answer: impl Fn(&RateLimitRequest) -> Says + Send + Sync + 'static) -> LimitService {
        LimitService::start_at(any_port(), answer)
    }

    /// The same on a given address.
    pub fn start_at(
        addr: SocketAddr,
        answer: impl Fn(&RateLimitRequest) -> Says + Send + Sync + 'static,
    ) -> LimitService {
        let (tell, asked) = channel();
        let (give_up, given_up) = channel();
        let senders = Mutex::new((tell, give_up));
        let script = Script::start_at(addr, move |conn| {
            let (tell, give_up) = senders.lock().unwrap().clone();
            let both = Mutex::new((tell, give_up));
            serve(conn, &Options::default(), &|served| {
                let (tell, give_up) = both.lock().unwrap().clone();
                reply(served, &answer, &tell, &give_up);
            });
        });
        LimitService { script, asked, given_up }
    }

    /// Always says this.
    pub fn saying(says: Says) -> LimitService {
        LimitService::start(move |_| says.clone())
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.script.addr()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.script.connections()
    }

    /// The next question.
    ///
    /// # Panics
    /// When there is none.
    pub fn asked(&self) -> Asked {
        self.asked.recv_timeout(wait::DEADLINE).expect("a question")
    }

    /// Whether there is a question that was not looked at.
    pub fn has_been_asked(&self) -> bool {
        self.asked.try_recv().is_ok()
    }

    /// Waits until a question that gets no answer has been given up.
    ///
    /// # Panics
    /// When it is not.
    pub fn wait_given_up(&self) {
        self.given_up.recv_timeout(wait::DEADLINE).expect("a question that is given up");
    }
}

fn reply(
    served: &mut Served<'_>,
    answer: &impl Fn(&RateLimitRequest) -> Says,
    tell: &Sender<Asked>,
    give_up: &Sender<()>,
) {
    const GRPC: (&str, &str) = ("content-type", "application/grpc");
    let mut body = Vec::new();
    if served.body(&mut |bytes| body.extend_from_slice(bytes)).is_err() {
        return;
    }
    assert_eq!((served.head.method(), served.path()), ("POST", SHOULD_RATE_LIMIT));
    let request: RateLimitRequest = grpc::decode_frame(&body).expect("a RateLimitRequest");
    let says = answer(&request);
    let _ = tell.send(Asked { head: served.head.clone(), request });
    let with_body = |served: &mut Served<'_>, body: &[u8]| {
        served.start(200, &[GRPC], Framing::Chunked);
        served.send(body);
        served.finish(&[("grpc-status", "0")]);
    };
    match says {
        Says::Message(message) => with_body(served, &grpc::encode_frame(&*message)),
        Says::Garbage => with_body(served, b"over limit"),
        Says::Grpc(status) => _ = served.answer(200, &[GRPC, ("grpc-status", status)], b""),
        Says::Http(status) => _ = served.answer(status, &[], b""),
        Says::Nothing => {
            served.wait_given_up();
            let _ = give_up.send(());
        }
        Says::Reset => served.cut(),
    }
}
