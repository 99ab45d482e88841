//! A configuration of 10 000 routes: reading and checking it, and building a generation of it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use divan::{Bencher, black_box};
use gateway::config::{self, Files};
use gateway::filter::bans::Bans;
use gateway::metrics::registry::Registry;
use gateway::snapshot::{Builder, Resolved, Snapshot};

const ROUTES: usize = 10_000;
const HOSTS: usize = 100;
const CLUSTERS: usize = 100;

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 20)]
fn check(bencher: Bencher<'_, '_>) {
    let file = OneFile(text());
    bencher.bench_local(|| load(black_box(&file)));
}

/// The first generation of a process.
#[divan::bench(sample_count = 20)]
fn snapshot(bencher: Bencher<'_, '_>) {
    bench_build(bencher, || (builder(), None));
}

/// One after another, of the same configuration: a reload.
#[divan::bench(sample_count = 20)]
fn snapshot_after_another(bencher: Bencher<'_, '_>) {
    bench_build(bencher, || {
        let mut builder = builder();
        let first = build(&mut builder, load(&OneFile(text())), None);
        (builder, Some(first))
    });
}

fn bench_build(bencher: Bencher<'_, '_>, start: impl Fn() -> (Builder, Option<Snapshot>)) {
    let config = load(&OneFile(text()));
    bencher.with_inputs(|| (start(), config.clone())).bench_local_values(|((mut builder, previous), config)| {
        let built = build(&mut builder, config, previous.as_ref());
        // Handed back, so that their end is not measured.
        (built, previous, builder)
    });
}

fn build(builder: &mut Builder, config: config::model::Config, previous: Option<&Snapshot>) -> Snapshot {
    builder.build(config, &Resolved::default(), previous).expect("it builds")
}

fn builder() -> Builder {
    Builder::new(Arc::new(Registry::new(1)), Arc::new(Bans::default()), Arc::default()).expect("random numbers")
}

fn load(file: &OneFile) -> config::model::Config {
    config::load(Path::new("/gateway.toml"), file, SystemTime::UNIX_EPOCH).expect("no errors").config
}

fn text() -> String {
    let mut text = String::from("[[listener]]\nname = 'web'\naddress = '127.0.0.1:8080'\n");
    for n in 0..CLUSTERS {
        let _infallible = write!(text, "\n[[cluster]]\nname = 'c{n}'\nendpoints = ['127.0.0.1:{}']\n", 9_000 + n);
    }
    for n in 0..ROUTES {
        let (host, cluster) = (n % HOSTS, n % CLUSTERS);
        let _infallible = write!(
            text,
            "\n[[route]]\nname = 'r{n}'\nhosts = ['h{host}.test']\nmatch = {{ path_prefix = '/api/v1/service-{n}' }}\n\
             cluster = 'c{cluster}'\nrequest_headers = {{ set = {{ x-route = 'r{n}' }} }}\n"
        );
    }
    text
}

/// The only file there is.
struct OneFile(String);

impl Files for OneFile {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.clone().into_bytes())
    }

    fn glob(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}
