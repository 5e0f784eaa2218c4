//! Endpoints that fail: the next one is tried, each once, within its time; what policy refused is tried nowhere else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use serde_json::{Value, json};

use crate::life::echo;
use crate::mesh::{CLIENT, Mesh, SERVER, allow, config, forward_to};
use crate::node::{AT_ONCE, LoopbackPod, app, closed, dial, reason};

const FLAG_RETRIED: u8 = 4;

/// Answers no SYN: its queue is full. Hold what comes back.
fn silent() -> (SocketAddr, impl Drop) {
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&fd, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&fd, 0).unwrap();
    let listener = TcpListener::from(fd);
    let address = listener.local_addr().unwrap();
    let mut held = vec![TcpStream::connect(address).unwrap()];
    while let Ok(more) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        held.push(more);
    }
    struct Hold(#[allow(dead_code)] (TcpListener, Vec<TcpStream>));
    impl Drop for Hold {
        fn drop(&mut self) {}
    }
    (address, Hold((listener, held)))
}

/// A plan with these endpoints, in this order.
fn plan(endpoints: &[(SocketAddr, &str, u32)]) -> Value {
    let mut plan = forward_to(endpoints[0].0, endpoints[0].1);
    let rows =
        endpoints.iter().map(|(to, mode, weight)| json!({"ip": to.ip(), "port": to.port(), "mode": mode, "identities": [SERVER], "weight": weight}));
    plan["endpoints"] = rows.collect();
    plan
}

fn mesh(endpoints: impl Fn(SocketAddr) -> Vec<(SocketAddr, &'static str, u32)>) -> Mesh {
    Mesh::planned(app(echo), config(|_| {}), config(|_| {}), |to| plan(&endpoints(to)), allow)
}

/// What the client's node grants an endpoint to connect and to shake hands, where a test is about just that.
const GIVEN: Duration = Duration::from_secs(2);

fn impatient(endpoints: impl Fn(SocketAddr) -> Vec<(SocketAddr, &'static str, u32)>) -> Mesh {
    let given = GIVEN.as_millis() as u64;
    let one = config(|c| (c.connect_timeout_ms, c.handshake_timeout_ms) = (given, given));
    Mesh::planned(app(echo), one, config(|_| {}), |to| plan(&endpoints(to)), allow)
}

/// Whether a ping comes back, and after how long it was known.
fn ping(mesh: &Mesh) -> (bool, Duration) {
    let started = Instant::now();
    let mut stream = dial(mesh.client.outbound());
    let came = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut [0; 4])).is_ok();
    (came, started.elapsed())
}

fn endpoint(record: &[u8; 128]) -> u16 {
    u16::from_le_bytes([record[16], record[17]])
}

#[test]
#[doc = "[DP-14] a tunnel's endpoint that refuses: the next one carries the connection, which the record tells"]
fn next_tunnel_endpoint() {
    let mesh = mesh(|to| vec![(closed(), "fairlead/1", 1), (to, "fairlead/1", 1)]);
    for _ in 0..10 {
        assert!(ping(&mesh).0);
    }
    let records = mesh.one.records(10);
    assert!(records.iter().all(|r| (reason(r), endpoint(r)) == (0, 1)));
    let retried = records.iter().filter(|r| r[7] & FLAG_RETRIED != 0).count() as u64;
    assert!((4..=6).contains(&retried), "every other connection met the closed one first: {retried}");
    assert_eq!(mesh.one.counter("endpoint_failed"), retried);
}

#[test]
#[doc = "[DP-14] a plain endpoint that refuses: the next one; none left: RST with the last reason, each tried once"]
fn next_plain_endpoint() {
    let target = app(echo);
    let some = mesh(move |_| vec![(closed(), "plain", 1), (closed(), "plain", 1), (target, "plain", 1)]);
    assert!(ping(&some).0);
    assert_eq!(endpoint(&some.one.records(1)[0]), 2);
    let none = mesh(|_| vec![(closed(), "fairlead/1", 1), (closed(), "fairlead/1", 1)]);
    let (came, took) = ping(&none);
    assert!(!came && took < AT_ONCE, "{took:?}");
    assert_eq!((reason(&none.one.records(1)[0]), none.one.counter("endpoint_failed")), (20, 2));
}

#[test]
#[doc = "[DP-31] an endpoint that answers nothing costs the connect timeout, no more, tunnel or plain"]
fn silent_endpoints_cost_their_time() {
    for mode in ["fairlead/1", "plain"] {
        let (dead, hold) = silent();
        let target = app(echo);
        let mesh = impatient(move |to| vec![(dead, mode, 1), if mode == "plain" { (target, mode, 1) } else { (to, mode, 1) }]);
        let (came, took) = ping(&mesh);
        assert!(came && took >= GIVEN.mul_f32(0.9) && took < GIVEN + AT_ONCE, "{mode}: {took:?}");
        assert_eq!(endpoint(&mesh.one.records(1)[0]), 1);
        drop(hold);
    }
}

#[test]
#[doc = "[DP-9] [IDN-7] an endpoint that shakes no hands, or is somebody else, is left for the next tunnel and counted, never spoken to in plain"]
fn failed_handshakes_go_on() {
    // Accepts and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    let timed = impatient(move |to| vec![(address, "fairlead/1", 1), (to, "fairlead/1", 1)]);
    let (came, took) = ping(&timed);
    assert!(came && took < GIVEN + AT_ONCE, "{took:?}");
    assert_eq!(timed.one.counter("tls_handshake_timeout"), 1);

    // A plain application where a tunnel was announced.
    let plain = app(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let wrong = mesh(move |to| vec![(plain, "fairlead/1", 1), (to, "fairlead/1", 1)]);
    assert!(ping(&wrong).0);
    assert_eq!(wrong.one.counter("tls_handshake_failed"), 1);

    // The first endpoint is another workload, the second the right one: told apart by what the plan expects.
    let other = mesh(|to| vec![(to, "fairlead/1", 1)]);
    other.two.svid(SERVER, &other.ca.svid("spiffe://cluster.local/ns/shop/sa/other"), 2);
    assert!(!ping(&other).0);
    assert_eq!((other.one.counter("tls_wrong_identity"), reason(&other.one.records(1)[0])), (1, 34));
}

/// Passes on to `to`, but resets each of the first `cuts` connections when its hello is there. Tells how many came.
fn cutting(to: SocketAddr, cuts: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let came = Arc::new(AtomicUsize::new(0));
    let count = came.clone();
    let address = app(move |mut stream| {
        if count.fetch_add(1, Ordering::Relaxed) < cuts {
            let _ = stream.peek(&mut [0; 1]);
            return rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
        let mut onwards = TcpStream::connect(to).unwrap();
        let (mut back, mut from) = (stream.try_clone().unwrap(), onwards.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut back));
        let _ = std::io::copy(&mut stream, &mut onwards);
    });
    (address, came)
}

#[test]
#[doc = "[DP-9] [INT-3] a hello that came too late for a permissive server is reset: the same endpoint is dialled again, twice at most"]
fn late_hello_is_sent_again() {
    for (cuts, reached) in [(1, true), (2, true), (3, false)] {
        let came = Arc::new(std::sync::OnceLock::new());
        let told = came.clone();
        let mesh = mesh(move |to| vec![(told.get_or_init(|| cutting(to, cuts)).0, "fairlead/1", 1)]);
        assert_eq!(ping(&mesh).0, reached, "{cuts} cuts");
        let redials = cuts.min(2);
        assert_eq!(mesh.one.counter("tunnel_redials"), redials as u64, "{cuts} cuts");
        assert_eq!(came.get().unwrap().1.load(Ordering::Relaxed), redials + 1, "{cuts} cuts");
        let record = mesh.one.records(1)[0];
        assert_eq!((reason(&record), record[7] & FLAG_RETRIED), if reached { (0, FLAG_RETRIED) } else { (41, FLAG_RETRIED) }, "{cuts} cuts");
        assert_eq!(mesh.one.counter("endpoint_failed"), u64::from(!reached), "{cuts} cuts");
    }
}

#[test]
#[doc = "[DP-9] a service with tunnel and plain endpoints: who breaks the tunnel does not get the connection in plaintext"]
fn no_plaintext_after_a_tunnel() {
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    let plain = app(move |mut stream| {
        count.fetch_add(stream.read(&mut [0; 64]).unwrap_or(0), Ordering::Relaxed);
    });
    let mesh = mesh(move |_| vec![(closed(), "fairlead/1", 5), (plain, "plain", 1)]);
    // The picks are five to one: the first ones meet the tunnel.
    assert!((0..3).all(|_| !ping(&mesh).0));
    let records = mesh.one.records(3);
    assert!(records.iter().all(|r| (reason(r), endpoint(r)) == (20, 0)));
    assert_eq!(heard.load(Ordering::Relaxed), 0);
}

#[test]
#[doc = "[DP-14] weight 0 is a last resort; the other endpoints are tried before it"]
fn last_resort() {
    let mesh = mesh(|to| vec![(to, "fairlead/1", 0), (closed(), "fairlead/1", 5)]);
    assert!(ping(&mesh).0);
    let record = mesh.one.records(1)[0];
    assert_eq!((endpoint(&record), record[7] & FLAG_RETRIED), (0, FLAG_RETRIED));
}

#[test]
#[doc = "[DP-14] refused before it began (the app is not there): the next endpoint; refused by policy: final"]
fn refusals_of_the_far_agent() {
    let answer = |action: &'static str| {
        move |q: &Value| match q["ask"].as_str()? {
            "inbound" if action == "refuse" => {
                Some(json!({"verdictId": 4, "generation": 0, "action": "refuse", "reason": "policy_denied", "policy": "shop/no"}))
            }
            _ => allow(q),
        }
    };
    for (action, app_at, expected) in [("forward", closed(), true), ("refuse", app(echo), false)] {
        let local = app(echo);
        let endpoints = move |to| {
            let mut plan = plan(&[(to, "fairlead/1", 1), (local, "local", 1)]);
            plan["endpoints"][1]["pod"] = json!("shop/beside");
            plan
        };
        let mesh = Mesh::planned(app_at, config(|_| {}), config(|_| {}), endpoints, answer(action));
        let beside = LoopbackPod::new("shop/beside", "127.0.0.4:0");
        mesh.one.enrol(&beside, SERVER);
        assert_eq!(ping(&mesh).0, expected, "{action}");
        let record = mesh.one.records(1)[0];
        assert_eq!((reason(&record), endpoint(&record)), if expected { (0, 1) } else { (10, 0) }, "{action}");
        let asked = mesh.two.seen.lock().unwrap().questions.iter().find(|q| q["ask"] == "inbound").unwrap()["identity"].clone();
        assert_eq!(asked, CLIENT);
    }
}
