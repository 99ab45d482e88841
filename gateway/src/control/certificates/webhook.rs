//! Posts alerts to the webhook. The control thread hands them over and does not wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::model::Webhook;
use crate::control::http_client::{Connection, Limits, Peer, Trust};

/// Posts that wait: as many as 10 000 certificates make that expire at once.
const WAITING: usize = 16;

/// What one try may take. Of the answer no more than its status is read.
const LIMITS: Limits = Limits { connect: Duration::from_secs(5), answer: Duration::from_secs(10), body: None };

/// How long is waited after each try that failed. Together with the tries, two and a half minutes at most: what is away for longer is
/// found in the log and in the metrics.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(40)];

/// Posts what it is handed, one after the other, in a task that ends with it.
pub struct Webhooks {
    posts: mpsc::Sender<Post>,
    counts: Arc<Counts>,
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Answered with 2xx.
    sent: AtomicU64,
    /// Given up, or not tried because too many waited.
    failed: AtomicU64,
}

/// A body, and where it goes.
#[derive(Debug)]
pub struct Post {
    /// Where.
    pub to: Webhook,
    /// JSON.
    pub body: Bytes,
}

impl Webhooks {
    /// Starts the task.
    pub fn start() -> Webhooks {
        Webhooks::with_pauses(&PAUSES)
    }

    fn with_pauses(pauses: &'static [Duration]) -> Webhooks {
        let (posts, mut waiting) = mpsc::channel::<Post>(WAITING);
        let counts = Arc::new(Counts::default());
        let mut task = JoinSet::new();
        let told = counts.clone();
        task.spawn(async move {
            while let Some(post) = waiting.recv().await {
                let result = if deliver(&post, pauses).await { &told.sent } else { &told.failed };
                result.fetch_add(1, Relaxed);
            }
        });
        Webhooks { posts, counts, _task: task }
    }

    /// Has `post` delivered.
    pub fn send(&self, post: Post) {
        if let Err(error) = self.posts.try_send(post) {
            self.counts.failed.fetch_add(1, Relaxed);
            let to = error.into_inner().to.origin();
            log::error!("webhook {to}: {WAITING} posts wait already; an alert is in the log alone");
        }
    }

    /// Posts that were taken, and those that were given up.
    pub fn counts(&self) -> [u64; 2] {
        [&self.counts.sent, &self.counts.failed].map(|count| count.load(Relaxed))
    }
}

async fn deliver(post: &Post, pauses: &[Duration]) -> bool {
    let to = post.to.origin();
    let mut pauses = pauses.iter();
    loop {
        let Err(why) = try_once(post).await else { return true };
        let Some(pause) = pauses.next() else {
            log::error!("webhook {to}: {why}; given up: an alert is in the log alone");
            return false;
        };
        log::warn!("webhook {to}: {why}; tried again in {pause:?}");
        sleep(*pause).await;
    }
}

/// One try. The error says why, without the path.
async fn try_once(Post { to, body }: &Post) -> Result<(), String> {
    let peer = Peer { is_tls: to.is_tls, host: &to.host, port: to.port };
    let trust = Trust { ca_pem: to.ca_pem.as_deref(), client: None };
    let request = Request::post(&to.path)
        .header(header::HOST, to.authority())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body.clone()))
        .map_err(|error| error.to_string())?;
    let mut connection = Connection::open(peer, trust, LIMITS).await?;
    let status = connection.exchange(request).await.map_err(|failure| failure.to_string())?.status();
    if status.is_success() { Ok(()) } else { Err(format!("answers {status}")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(20);

    /// Answers each connection with the next of these, and gives what it was sent.
    async fn server(answers: &'static [&'static str]) -> (Webhook, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = heard.clone();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
                while !bytes.ends_with(b"}") {
                    let length = stream.read(&mut buffer).await.unwrap();
                    bytes.extend_from_slice(&buffer[..length]);
                }
                told.lock().unwrap().push(String::from_utf8(bytes).unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let path = "/hook?key=secret".into();
        (Webhook { is_tls: false, host: "127.0.0.1".into(), port, path, ca_pem: None }, heard)
    }

    const SOON: [Duration; 2] = [Duration::from_millis(1); 2];

    async fn wait_for(webhooks: &Webhooks, sent_and_failed: [u64; 2]) {
        let counted = async {
            while webhooks.counts() != sent_and_failed {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, counted).await.unwrap_or_else(|_| panic!("{:?}", webhooks.counts()));
    }

    #[tokio::test]
    async fn a_post_is_tried_until_it_is_taken() {
        let (to, heard) = server(&[
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            "",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ])
        .await;
        let webhooks = Webhooks::with_pauses(&SOON);
        webhooks.send(Post { to: to.clone(), body: Bytes::from_static(b"{\"a\":1}") });
        wait_for(&webhooks, [1, 0]).await;
        let heard = heard.lock().unwrap();
        assert_eq!(heard.len(), 3);
        assert!(heard[2].starts_with("POST /hook?key=secret HTTP/1.1\r\n"), "{}", heard[2]);
        assert!(heard[2].contains(&format!("host: 127.0.0.1:{}\r\n", to.port)), "{}", heard[2]);
        assert!(heard[2].contains("content-length: 7\r\n") && heard[2].ends_with("\r\n\r\n{\"a\":1}"), "{}", heard[2]);
    }

    #[tokio::test]
    async fn a_webhook_that_is_away_is_given_up() {
        let (mut to, _) = server(&[]).await;
        // The port of a socket that does not listen.
        let closed = tokio::net::TcpSocket::new_v4().unwrap();
        closed.bind(([127, 0, 0, 1], 0).into()).unwrap();
        to.port = closed.local_addr().unwrap().port();
        let webhooks = Webhooks::with_pauses(&SOON);
        webhooks.send(Post { to, body: Bytes::from_static(b"{}") });
        wait_for(&webhooks, [0, 1]).await;
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (to, _) = server(&[]).await;
        let webhooks = Webhooks::with_pauses(&SOON);
        // The task does not run between these: nothing here awaits.
        for _ in 0..WAITING + 3 {
            webhooks.send(Post { to: to.clone(), body: Bytes::from_static(b"{}") });
        }
        assert_eq!(webhooks.counts(), [0, 3]);
    }
}
