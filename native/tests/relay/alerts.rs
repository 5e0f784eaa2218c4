//! The alert of a refused handshake, without sockets: it must come whole, however the bytes were cut.

use std::sync::Arc;

use fairlead::reason::Reason;
use fairlead::tls::identity::Identities;
use fairlead::tls::records::{Opened, Records};
use fairlead::tls::session::{Established, Handshake, client_config, failure, server_config};

use crate::mesh::{CLIENT, DOMAIN, SERVER};
use crate::pki::{Ca, Pair, ca};

fn identities(root: &Ca, identity: &str, pair: &Pair) -> Identities {
    let ids = Identities::new(DOMAIN);
    ids.put_trust(&[(DOMAIN.into(), vec![root.pem.clone()])], vec![], 1).unwrap();
    ids.put_svid(identity, &pair.chain, &pair.key, 1, 0).unwrap();
    ids
}

/// Feeds `bytes` in pieces of `size`; the answer, and what the handshake came to.
fn feed(handshake: &mut Handshake, bytes: &[u8], size: usize) -> (Vec<u8>, Result<Option<Established>, Reason>) {
    let (mut input, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        let mut used = 0;
        let result = handshake.advance(&mut input, &mut used, &mut out);
        input.drain(..used);
        match result {
            Ok(None) => {}
            Ok(Some(done)) => return (out, Ok(Some(done))),
            Err(failure) => return (out, Err(failure.reason)),
        }
    }
    (out, Ok(None))
}

/// What the client makes of the server's last words.
fn heard(records: &mut Records, mut words: Vec<u8>) -> Reason {
    match records.open(&mut words) {
        Err(error) => failure(&error).reason,
        Ok(Opened::NeedMore) => panic!("no alert among {} bytes", words.len()),
        Ok(other) => panic!("{other:?}"),
    }
}

#[test]
#[doc = "[IDN-7] a client certificate that is refused: the alert comes and says so, however the client's flight was cut and whatever came behind it"]
fn alert_of_a_refused_client() {
    let root = ca("root");
    let one = identities(&root, CLIENT, &ca("foreign").svid(CLIENT));
    let two = identities(&root, SERVER, &root.svid(SERVER));
    let (at_one, at_two) = (one.snapshot(), two.snapshot());
    let client = client_config(&one, &at_one, &at_one.svids[CLIENT], Arc::from([SERVER.to_string()])).unwrap();
    let server = server_config(&two, &at_two, &at_two.svids[SERVER]).unwrap();
    for size in [1, 2, 5, 7, 50, 100, 333, 700, 1_000, 100_000] {
        for behind in [0, 1, 40] {
            let (mut c, mut s) = (Handshake::client(client.clone()).unwrap(), Handshake::server(server.clone()).unwrap());
            let (mut used, mut hello) = (0, Vec::new());
            assert!(c.advance(&mut [], &mut used, &mut hello).unwrap().is_none());
            let (flight, _) = feed(&mut s, &hello, size);
            let (mut last, done) = feed(&mut c, &flight, size);
            let mut records = done.unwrap().unwrap().records;
            // The client opens a stream at once: it does not know yet.
            last.extend(vec![23; behind]);
            let (words, refused) = feed(&mut s, &last, size);
            assert_eq!(refused.err(), Some(Reason::UnknownIssuer), "in pieces of {size}");
            assert_eq!(heard(&mut records, words), Reason::PeerRefusedUs, "in pieces of {size}, {behind} behind");
        }
    }
}
