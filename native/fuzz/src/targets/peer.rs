//! What a peer says of itself and wants: the `:authority` of a CONNECT, and its certificate.

use std::net::SocketAddr;

use fairlead::hbone::authority;
use fairlead::tls::{validity, verify};

pub fn authority(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(address) = authority::parse(&text) else { return };
    // Nothing of its own: the standard parser reads the same, and a mapped address is no way round a rule.
    let standard: SocketAddr = text.parse().expect("accepted what is no address and port");
    assert_eq!(SocketAddr::new(standard.ip().to_canonical(), standard.port()), address);
    assert!(address.port() != 0 && address.ip() == address.ip().to_canonical());
    assert_eq!(authority::parse(&address.to_string()), Ok(address));
}

pub fn certificate(data: &[u8]) {
    // 9999-12-31 is the last day that a certificate can name.
    if let Some(ms) = validity::not_after_ms(data) {
        assert!(ms < 253_402_387_200_000, "{ms}");
        let longer = [data, &[0]].concat();
        assert_eq!(validity::not_after_ms(&longer), Some(ms), "bytes behind the certificate changed what it says");
    }
    if let Some(id) = verify::identity_of(&data.into()) {
        assert!(id.starts_with("spiffe://") && id.len() <= 2_048 && id.is_ascii(), "{id:?}");
    }
}
