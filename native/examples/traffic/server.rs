//! The answering side: checks every byte that the client sends and counts what it saw.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::spawn_local;

use crate::wire::{self, Checker, DOWN, HEAD, Head, Order, UP};
use crate::{Options, idle, usage};

/// Reasons kept for the report.
const FAULTS: usize = 20;

#[derive(Default)]
struct Counts {
    connections: u64,
    open: u64,
    whole: u64,
    broken: u64,
    resets: u64,
    faults: Vec<String>,
}

impl Counts {
    fn fault(&mut self, text: String) {
        self.broken += 1;
        if self.faults.len() < FAULTS {
            self.faults.push(text);
        }
    }
}

type Shared = Rc<RefCell<Counts>>;

pub async fn run(o: &Options) {
    let host = o.text("host", "::");
    let counts = Shared::default();
    let main = listen(&host, o.number("port").unwrap_or(7000));
    if let Some(port) = o.number("greet") {
        let listener = listen(&host, port);
        spawn_local(each(listener, |stream| async move { greet(&stream).await }));
    }
    if let Some(port) = o.number("sink") {
        let listener = listen(&host, port);
        spawn_local(each(listener, |stream| async move { echo(&stream).await }));
    }
    each(main, move |stream| serve(stream, Rc::clone(&counts))).await;
}

fn listen(host: &str, port: u64) -> TcpListener {
    let open = |host: &str| -> std::io::Result<TcpListener> {
        let ip: std::net::IpAddr = host.parse().map_err(|_| std::io::Error::other(format!("--host {host:?}: use an address")))?;
        let port = u16::try_from(port).map_err(|_| std::io::Error::other("a port is at most 65535"))?;
        let socket = if ip.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        socket.set_reuseaddr(true)?;
        socket.bind((ip, port).into())?;
        socket.listen(4096)
    };
    match open(host) {
        // A machine without IPv6.
        Err(e) if host == "::" && e.raw_os_error() == Some(libc::EAFNOSUPPORT) => open("0.0.0.0"),
        other => other,
    }
    .unwrap_or_else(|e| usage(&format!("listening on {host} port {port}: {e}")))
}

async fn each<F: Future + 'static>(listener: TcpListener, work: impl Fn(TcpStream) -> F) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                spawn_local(work(stream));
            }
            // Out of descriptors: those that are open end some time.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn greet(stream: &TcpStream) -> std::io::Result<()> {
    wire::write_all(stream, b"hello from the server\n").await?;
    wire::finish(stream)?;
    while wire::read(stream, &mut [0; 256]).await? > 0 {}
    Ok(())
}

async fn echo(stream: &TcpStream) -> std::io::Result<()> {
    let mut room = vec![0; 64 * 1024];
    loop {
        match wire::read(stream, &mut room).await? {
            0 => return wire::finish(stream),
            n => wire::write_all(stream, &room[..n]).await?,
        }
    }
}

async fn serve(stream: TcpStream, counts: Shared) {
    {
        let mut c = counts.borrow_mut();
        c.connections += 1;
        c.open += 1;
    }
    let mut order = None;
    let result = conversation(&stream, &counts, &mut order).await;
    let mut c = counts.borrow_mut();
    c.open -= 1;
    if let Err(e) = result {
        c.resets += 1;
        if let Some(order) = order.filter(|o| *o != Order::Idle) {
            c.fault(format!("{}: {}", order.name(), wire::name_of(&e)));
        }
    }
}

async fn conversation(stream: &TcpStream, counts: &Shared, order: &mut Option<Order>) -> std::io::Result<()> {
    let mut bytes = [0; HEAD];
    if !wire::read_exact(stream, &mut bytes).await? {
        return Ok(()); // a probe
    }
    let Some(head) = Head::decode(&bytes) else {
        counts.borrow_mut().fault(format!("no head: {:02x?}", &bytes[..16]));
        return Ok(());
    };
    *order = Some(head.order);
    match head.order {
        Order::Stats => {
            let text = {
                let c = counts.borrow();
                let (connections, open) = (c.connections, c.open);
                json!({"connections": connections, "open": open, "whole": c.whole, "broken": c.broken, "resets": c.resets, "faults": c.faults})
            };
            wire::write_all(stream, text.to_string().as_bytes()).await
        }
        Order::Idle => idle::answer(stream).await,
        _ => checked(stream, counts, &head).await,
    }
}

async fn checked(stream: &TcpStream, counts: &Shared, head: &Head) -> std::io::Result<()> {
    let mut checker = Checker::new(head.seed, UP, head.up);
    let answer = async |length: u32| wire::send(stream, &[], head.seed, DOWN, length).await;
    let settle = |checker: &Checker| match checker.whole() {
        true => counts.borrow_mut().whole += 1,
        false => counts.borrow_mut().fault(format!("{}: {}", head.order.name(), checker.fault())),
    };
    match head.order {
        Order::Request => {
            let mut room = vec![0; (head.up as usize).clamp(1, 64 * 1024)];
            while !checker.complete() {
                match wire::read(stream, &mut room).await? {
                    0 => break,
                    n => checker.take(&room[..n]),
                }
            }
            if checker.whole() {
                answer(head.down).await?;
                wire::read_to_end(stream, &mut checker).await?; // its FIN, and nothing more before it
            }
            settle(&checker);
        }
        Order::ClientFin => {
            wire::read_to_end(stream, &mut checker).await?;
            settle(&checker);
            answer(if checker.whole() { head.down } else { 0 }).await?;
        }
        _ => {
            let sending = async {
                answer(head.down).await?;
                wire::finish(stream)
            };
            let (sent, read) = tokio::join!(sending, wire::read_to_end(stream, &mut checker));
            read.and(sent)?;
            settle(&checker);
            return Ok(());
        }
    }
    wire::finish(stream)
}
