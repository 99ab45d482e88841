//! Sharing what `[[limits]]` count with other boxes, by Redis. Workers never wait for it: they count by themselves, and what
//! the others have counted is put beside their counters.
//!
//! A key of Redis is a counter in one window, a hash in which each box has a field with its own number. A box writes its
//! field and reads all of them, in one go for many keys; see [`Ledger`](crate::filter::limits::Ledger) for why it is numbers
//! and not differences.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    Value,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::resolve::Asking;
use crate::config::model::{EndpointAddress, RedisStore};
use crate::filter::limits::{Counters, Entry, Learnt};
use crate::metrics::registry::LimitSetStats;
use crate::snapshot::Snapshot;

/// How long Redis may take to accept a connection, or to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it is left alone after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Counters in one request to Redis, which serves nobody else meanwhile: well under a millisecond of its time.
const BATCH: usize = 256;

/// How long Redis keeps a counter whose window is over: clocks of boxes may differ.
const KEPT: Duration = Duration::from_secs(60);

/// Bytes of an error of Redis in the log: it may quote what it was told.
const ERROR_MAX: usize = 200;

/// The exchanges that go on, by the name of their `[[limits]]`.
#[derive(Default)]
pub struct Exchanges(HashMap<String, Running>);

struct Running {
    store: RedisStore,
    counters: Arc<Counters>,
    /// The field of these counters: other ones begin at 0, and what the old ones counted counts on.
    field: String,
    /// Ends when it is dropped.
    _task: JoinSet<()>,
}

impl Exchanges {
    /// Makes the exchanges of this generation from now on. Those whose Redis and counters stay go on.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.0);
        for (set, view) in snapshot.config.limits.iter().zip(&snapshot.limits) {
            let Some(store) = &set.redis else { continue };
            let (old, counters) = (before.remove(&set.name), view.limits.counters().clone());
            let running = match old.filter(|old| Arc::ptr_eq(&old.counters, &counters)) {
                Some(same) if same.store == *store => same,
                old => {
                    let field = old.map_or_else(|| format!("{:016x}", fastrand::u64(..)), |old| old.field);
                    let exchange = Exchange {
                        name: set.name.clone(),
                        store: store.clone(),
                        counters: counters.clone(),
                        stats: view.stats.clone(),
                        field: field.clone(),
                        asking: Asking::default(),
                        link: None,
                        heard: Instant::now(),
                    };
                    let mut task = JoinSet::new();
                    task.spawn(exchange.run());
                    Running { store: store.clone(), counters, field, _task: task }
                }
            };
            self.0.insert(set.name.clone(), running);
        }
    }
}

struct Exchange {
    name: String,
    store: RedisStore,
    counters: Arc<Counters>,
    stats: Arc<LimitSetStats>,
    field: String,
    /// The lookup of Redis' name.
    asking: Asking,
    link: Option<MultiplexedConnection>,
    /// When Redis last answered.
    heard: Instant,
}

impl Exchange {
    async fn run(mut self) {
        self.with_ledger(|ledger, _| ledger.tell_all());
        let mut ticks = tokio::time::interval(self.store.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_up = None;
        loop {
            ticks.tick().await;
            let done = self.exchange().await;
            self.note(&done, was_up);
            was_up = Some(done.is_ok());
            if done.is_err() {
                self.link = None;
                // Nobody knows what of it was taken.
                self.with_ledger(|ledger, _| ledger.tell_all());
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Tells what has changed, and learns what the others have counted of that.
    async fn exchange(&mut self) -> Result<(), RedisError> {
        let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let due = self.with_ledger(|ledger, counters| (ledger.due(counters, now_s), ledger.take_given_up()));
        let (due, given_up) = due.unwrap_or_default();
        self.stats.of_control().unshared.add(given_up);
        let mut link = match self.link.take() {
            Some(link) => link,
            None => connect(&self.store, &mut self.asking).await?,
        };
        // Whether it is there is of interest also while there is nothing to say.
        if due.is_empty() && self.heard.elapsed() >= RETRY {
            redis::cmd("PING").query_async::<()>(&mut link).await?;
            self.heard = Instant::now();
        }
        for batch in due.chunks(BATCH) {
            let totals = self.tell(&mut link, batch, now_s).await?;
            self.heard = Instant::now();
            self.stats.of_control().told.add(batch.len() as u64);
            self.with_ledger(|ledger, counters| {
                for (entry, total) in batch.iter().zip(totals) {
                    // What Redis refused is due again the next time.
                    if let Some(total) = total {
                        ledger.learn(counters, entry.clone(), Learnt { total });
                    }
                }
            });
        }
        self.link = Some(link);
        Ok(())
    }

    /// Writes our numbers, and gives the sums of all boxes; `None` where Redis has something else under that key, which is the
    /// trouble of that key alone.
    async fn tell(
        &self,
        link: &mut MultiplexedConnection,
        batch: &[Entry],
        now_s: u64,
    ) -> Result<Vec<Option<u64>>, RedisError> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for Entry { key, ends_s, own } in batch {
            let key = format!("{}:{}|{key}|{ends_s}", self.store.prefix, self.name);
            let left_s = u64::from(*ends_s).saturating_sub(now_s) + KEPT.as_secs();
            pipe.cmd("HSET").arg(&key).arg(&self.field).arg(own);
            pipe.cmd("EXPIRE").arg(&key).arg(left_s).ignore();
            pipe.cmd("HVALS").arg(&key);
        }
        let answers: Vec<Value> = pipe.query_async(link).await?;
        answers.chunks_exact(2).map(sum).collect()
    }

    fn note(&self, done: &Result<(), RedisError>, was_up: Option<bool>) {
        let (name, address, stats) = (&self.name, &self.store.address, self.stats.of_control());
        match done {
            Ok(()) => stats.exchanges_ok.inc(),
            Err(_) => stats.exchanges_failed.inc(),
        }
        match (done, was_up) {
            (Ok(()), Some(false)) => log::info!("limits \"{name}\": Redis at {address} is back"),
            (Err(error), None | Some(true)) => {
                let error = error.to_string();
                let error = error.get(..error.floor_char_boundary(ERROR_MAX)).unwrap_or(&error);
                log::warn!("limits \"{name}\": Redis at {address}: {error}; this box goes on with what it knows")
            }
            _ => {}
        }
        stats.redis_up.add(i64::from(done.is_ok()) - stats.redis_up.get());
    }

    fn with_ledger<R>(&self, with: impl FnOnce(&mut crate::filter::limits::Ledger, &Counters) -> R) -> Option<R> {
        let ledger = self.counters.ledger()?;
        // A panic while it was held left it whole: every change is one map operation.
        Some(with(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner), &self.counters))
    }
}

/// The sum of a hash's fields, of what writing one and reading all were answered; `None` where the key is no hash. Fields that
/// are no numbers are nobody's count.
fn sum(answers: &[Value]) -> Result<Option<u64>, RedisError> {
    let mut total = None;
    for answer in answers {
        match answer {
            Value::ServerError(error) if error.code() == "WRONGTYPE" => return Ok(None),
            // It says so of every key: a replica, no memory, no permission.
            Value::ServerError(error) => return Err(error.clone().into()),
            Value::Array(fields) => {
                let numbers = fields.iter().filter_map(|field| u64::from_redis_value_ref(field).ok());
                total = Some(numbers.fold(0, u64::saturating_add));
            }
            _ => {}
        }
    }
    Ok(total)
}

/// Connects and logs in.
async fn connect(store: &RedisStore, asking: &mut Asking) -> Result<MultiplexedConnection, RedisError> {
    let mut settings = RedisConnectionInfo::default().set_db(store.database.into()).set_skip_set_lib_name();
    if let Some(username) = &store.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &store.password {
        settings = settings.set_password(password);
    }
    let patience = AsyncConnectionConfig::new();
    let patience = patience.set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    let address = tokio::time::timeout(PATIENCE, address(&store.address, asking)).await;
    let address = address.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let to = ConnectionAddr::Tcp(address.ip().to_string(), address.port()).into_connection_info()?;
    Client::open(to.set_redis_settings(settings))?.get_multiplexed_async_connection_with_config(&patience).await
}

/// The first address of a name.
async fn address(address: &EndpointAddress, asking: &mut Asking) -> io::Result<SocketAddr> {
    match address {
        EndpointAddress::Socket(address) => Ok(*address),
        EndpointAddress::Name(name, port) => {
            let first = asking.ask(name).await?.into_iter().next();
            let first = first.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
            Ok(SocketAddr::new(first, *port))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_no_hash_is_its_own_trouble_and_what_redis_says_of_all_keys_is_everybodys() {
        let text = |text: &str| Value::BulkString(text.into());
        let fields = |texts: &[&str]| Value::Array(texts.iter().map(|each| text(each)).collect());
        let refused = |line: &str| redis::parse_redis_value(line.as_bytes()).unwrap();
        let wrong = || refused("-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
        let cases = [
            ([Value::Int(1), fields(&["3", "4"])], Ok(Some(7))),
            ([Value::Int(0), fields(&["3", "many", "-1"])], Ok(Some(3))),
            ([Value::Int(0), fields(&["18446744073709551615", "4"])], Ok(Some(u64::MAX))),
            ([wrong(), wrong()], Ok(None)),
            ([refused("-READONLY You can't write against a read only replica.\r\n"), fields(&["3"])], Err(())),
        ];
        for (answers, expected) in cases {
            assert_eq!(sum(&answers).map_err(drop), expected, "{answers:?}");
        }
    }
}
