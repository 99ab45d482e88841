//! L4 balancing with the real binary between three machines: it goes on when the gateway is killed, and the next gateway
//! takes over.
//!
//! ```text
//! client eth0 ── eth0 gateway eth1 ── eth0 server
//! ```
//!
//! Root only, and only with an object in the binary; elsewhere each test says that it was skipped.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use gateway_tests::config::Config;
use gateway_tests::gateway::{Gateway, binary};
use gateway_tests::lab::{self, Namespace};
use gateway_tests::root_or_skip;
use gateway_tests::wait;
use tempfile::TempDir;

const UDP_VIP: &str = "192.0.2.10:7000";
const TCP_VIP: &str = "192.0.2.10:7001";

/// Longer than an echo takes on one machine; what one lost datagram costs the test.
const ECHO: Duration = Duration::from_secs(2);

#[test]
fn flows_outlive_a_gateway_that_is_killed_and_the_next_one_goes_on_with_them() {
    root_or_skip!();
    let lab = Lab::new();
    let first = lab.start();
    let mut connections: Vec<TcpStream> = (0..10).map(|_| lab.connect()).collect();
    let stream = Stream::start(&lab);
    stream.wait_for(100);
    let (sent, before) = (stream.pause(), lab.sent_to_server(&first));

    stream.resume();
    first.kill();
    stream.wait_for(200);
    connections.iter_mut().for_each(echo);
    let vips = lab.show(&["vips", "--json", "--pin"]);
    assert!(vips.contains(UDP_VIP) && vips.contains("10.96.1.2:7000"), "the kernel's tables can be read: {vips}");
    let flows = lab.show(&["flows", "--from", "10.96.0.2", "--pin"]);
    assert!(
        flows.lines().filter(|line| line.contains(TCP_VIP) && line.contains("established")).count() >= 10,
        "{flows}"
    );

    let second = lab.start();
    let log = second.process.stderr.text();
    assert!(log.contains("xdp: eth0 native, taken over from the process before"), "{log}");
    stream.wait_for(200);
    connections.iter_mut().for_each(echo);
    let all = stream.pause();
    assert_eq!(stream.lost(), 0);
    assert_eq!(lab.sent_to_server(&second) - before, all - sent, "every packet is counted once");
    lab.connect();

    drop(second);
    let detached = lab.show(&["xdp", "detach", "--pin"]);
    assert!(detached.starts_with("detached from 2 interfaces"), "{detached}");
    assert!(!lab.links().contains("prog/xdp"), "{}", lab.links());
    assert!(!lab.pin().exists(), "something is left");
}

/// Machines, and a BPF file system of their own.
struct Lab {
    client: Namespace,
    gateway: Namespace,
    _server: Namespace,
    bpf: TempDir,
}

impl Lab {
    fn new() -> Lab {
        let names = ["client", "gateway", "server"];
        let [client, gateway, server] = names.map(Namespace::new);
        lab::connect((&client, "eth0"), (&gateway, "eth0"));
        lab::connect((&server, "eth0"), (&gateway, "eth1"));
        for (machine, interface, address) in [
            (&client, "eth0", "10.96.0.2"),
            (&gateway, "eth0", "10.96.0.1"),
            (&gateway, "eth1", "10.96.1.1"),
            (&server, "eth0", "10.96.1.2"),
        ] {
            machine.add_address(interface, address.parse().unwrap(), 24);
        }
        client.run(&["ip", "route", "add", "192.0.2.0/24", "via", "10.96.0.1"]);
        gateway.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.accept_local=1"]);
        let bpf = tempfile::tempdir().unwrap();
        assert!(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(bpf.path()).status().unwrap().success());
        server.enter(serve);
        Lab { client, gateway, _server: server, bpf }
    }

    fn pin(&self) -> PathBuf {
        self.bpf.path().join("gateway")
    }

    fn start(&self) -> Gateway {
        let config = Config::new().tables(&format!(
            "[xdp]\ninterfaces = ['eth0', 'eth1']\nmode = 'native'\npin = '{}'\n\
             flows = {{ established = 4096, half_open = 4096 }}\n\
             [[vip]]\nname = 'udp'\naddress = '{UDP_VIP}'\nprotocol = 'udp'\ncluster = 'udp'\n\
             [[vip]]\nname = 'tcp'\naddress = '{TCP_VIP}'\ncluster = 'tcp'\n\
             [[cluster]]\nname = 'udp'\nendpoints = ['10.96.1.2:7000']\n\
             health_check = {{ protocol = 'udp', send = 'well?', expect = 'well?' }}\n\
             [[cluster]]\nname = 'tcp'\nendpoints = ['10.96.1.2:7001']\nhealth_check = {{ protocol = 'tcp' }}\n",
            self.pin().display()
        ));
        self.gateway.enter(|| Gateway::start(&config))
    }

    /// A connection over the VIP that has carried something.
    fn connect(&self) -> TcpStream {
        let mut stream = self.client.enter(|| TcpStream::connect(TCP_VIP)).unwrap();
        stream.set_read_timeout(Some(wait::DEADLINE)).unwrap();
        echo(&mut stream);
        stream
    }

    /// Packets that the kernel has counted for the UDP endpoint.
    fn sent_to_server(&self, gateway: &Gateway) -> u64 {
        let metrics = self.gateway.enter(|| gateway.metrics());
        metrics.sum("gateway_vip_packets_total", &[("vip", "udp"), ("direction", "in")]) as u64
    }

    /// What a command says about what is pinned.
    fn show(&self, arguments: &[&str]) -> String {
        let output = Command::new(binary()).args(arguments).arg(self.pin()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn links(&self) -> String {
        let output = Command::new("ip").args(["-netns", self.gateway.name(), "link"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.bpf.path()).status();
    }
}

/// Gives back what it gets, over UDP and over TCP, until the test ends.
fn serve() {
    let udp = UdpSocket::bind("0.0.0.0:7000").unwrap();
    let tcp = TcpListener::bind("0.0.0.0:7001").unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], from);
        }
    });
    thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..length]);
                }
            });
        }
    });
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

/// Datagrams of one client, each sent when the one before was answered or is lost.
struct Stream(Arc<Shared>);

#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    answered: AtomicU64,
    lost: AtomicU64,
    paused: AtomicBool,
    idle: AtomicBool,
    ended: AtomicBool,
}

impl Stream {
    fn start(lab: &Lab) -> Stream {
        let socket = lab.client.enter(|| UdpSocket::bind("10.96.0.2:0")).unwrap();
        socket.connect(UDP_VIP.parse::<SocketAddr>().unwrap()).unwrap();
        socket.set_read_timeout(Some(ECHO)).unwrap();
        let shared = Arc::new(Shared::default());
        let stream = Stream(shared.clone());
        thread::spawn(move || {
            while !shared.ended.load(SeqCst) {
                if shared.paused.load(SeqCst) {
                    shared.idle.store(true, SeqCst);
                    thread::park_timeout(Duration::from_millis(1));
                    continue;
                }
                shared.idle.store(false, SeqCst);
                shared.exchange(&socket);
            }
        });
        stream
    }

    /// Waits for this many answers more.
    fn wait_for(&self, answers: u64) {
        let goal = self.0.answered.load(SeqCst) + answers;
        wait::until_true("the datagrams to be answered", || self.0.answered.load(SeqCst) >= goal);
    }

    /// Waits until nothing is on its way, and says how many were sent so far.
    fn pause(&self) -> u64 {
        self.0.idle.store(false, SeqCst);
        self.0.paused.store(true, SeqCst);
        wait::until_true("the stream to pause", || self.0.idle.load(SeqCst));
        self.0.sent.load(SeqCst)
    }

    fn resume(&self) {
        self.0.paused.store(false, SeqCst);
    }

    fn lost(&self) -> u64 {
        self.0.lost.load(SeqCst)
    }
}

impl Shared {
    fn exchange(&self, socket: &UdpSocket) {
        let number = self.sent.fetch_add(1, SeqCst);
        let mut buffer = [0; 64];
        let answered = socket.send(&number.to_be_bytes()).is_ok()
            && socket.recv(&mut buffer).is_ok_and(|length| buffer[..length] == number.to_be_bytes());
        if answered { &self.answered } else { &self.lost }.fetch_add(1, SeqCst);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.ended.store(true, SeqCst);
    }
}
