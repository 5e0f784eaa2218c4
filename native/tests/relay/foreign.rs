//! A peer that is not ours: TLS by rustls itself, frames put together here, so that it can do what our agent would not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;

use fairlead::tunnel::frame::{HEADER, Kind, put};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::mesh::{CLIENT, DOMAIN, SERVER, config, forward_to};
use crate::node::{LoopbackPod, Node, PATIENCE, ask};
use crate::pki::{Pair, ca};

type Tunnel = StreamOwned<ServerConnection, TcpStream>;

fn accept(listener: &TcpListener, pair: &Pair) -> Tunnel {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()).unwrap();
    config.alpn_protocols = vec![b"fairlead/1".to_vec()];
    let socket = listener.accept().unwrap().0;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), socket)
}

fn frame(tunnel: &mut Tunnel) -> (Option<Kind>, u32, Vec<u8>) {
    let mut head = [0; HEADER];
    tunnel.read_exact(&mut head).unwrap();
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let stream = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let mut payload = vec![0; length];
    tunnel.read_exact(&mut payload).unwrap();
    (Kind::parse(head[0]), stream, payload)
}

/// Takes one stream up to its FIN, answers with the same bytes and a FIN, and waits until both are acknowledged.
fn serve_stream(tunnel: &mut Tunnel) {
    let mut data = Vec::new();
    loop {
        let (kind, stream, payload) = frame(tunnel);
        let mut out = Vec::new();
        match kind.unwrap() {
            Kind::Open => put(&mut out, Kind::Accept, stream, &[]),
            Kind::Data => data.extend(payload),
            Kind::Fin => {
                put(&mut out, Kind::Data, stream, &data);
                put(&mut out, Kind::Fin, stream, &[]);
                put(&mut out, Kind::FinAck, stream, &[]);
            }
            Kind::FinAck => return,
            other => panic!("{other:?}"),
        }
        tunnel.write_all(&out).unwrap();
        tunnel.flush().unwrap();
    }
}

#[test]
#[doc = "[DP-14] [DP-18] a tunnel that its acceptor closes in order, not having read the OPEN: the stream and its data go over another one, unseen"]
fn closed_before_it_was_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let ca = ca("root");
    let client = LoopbackPod::new("shop/client", "127.0.0.2:0");
    *client.to.lock().unwrap() = Some(to);
    let node = Node::start(config(|c| c.workers = 1), Box::new(move |q| (q["ask"] == "outbound").then(|| forward_to(to, "fairlead/1"))));
    node.trust(&[(DOMAIN, &[&ca.pem])]);
    node.svid(CLIENT, &ca.svid(CLIENT), 1);
    node.enrol(&client, CLIENT);
    let pair = ca.svid(SERVER);
    let (tell, over) = mpsc::channel();
    let peer = thread::spawn(move || {
        let mut first = accept(&listener, &pair);
        serve_stream(&mut first);
        tell.send(()).unwrap();
        // The second stream's OPEN and DATA arrive here and are never read.
        let mut waiting = [0; 1];
        while first.sock.peek(&mut waiting).unwrap() == 0 {}
        first.conn.send_close_notify();
        first.flush().unwrap();
        drop(first);
        serve_stream(&mut accept(&listener, &pair));
    });
    assert_eq!(ask(client.outbound(), b"one"), b"one");
    // Else the last frame of the first stream and the OPEN may come in one read, and nothing is left in the socket to wait for.
    over.recv_timeout(PATIENCE).unwrap();
    assert_eq!(ask(client.outbound(), b"two"), b"two");
    peer.join().unwrap();
}
