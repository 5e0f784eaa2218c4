//! Why a connection ended or was refused: stable codes, mirrored by `agent/flow.ts` (a test compares the tables).

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal $text:literal;)*) => {
        /// Close reason. The number goes into records, the text into logs, metrics and documents; neither ever changes meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Reason { $($(#[$doc])* $name = $code,)* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            pub fn text(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// Reason of a stable text, for `reason` fields that TypeScript sends.
            pub fn parse(text: &str) -> Option<Reason> {
                match text { $($text => Some(Reason::$name),)* _ => None }
            }

            pub fn from_code(code: u16) -> Option<Reason> {
                match code { $($code => Some(Reason::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Both directions ended in order.
    Finished = 0 "finished";
    /// One side's application reset the connection.
    ClientReset = 1 "client_reset";
    ServerReset = 2 "server_reset";
    /// A policy refused it (the plan, verdict or REFUSE names the policy).
    PolicyDenied = 10 "policy_denied";
    QuestionTimeout = 11 "question_timeout";
    /// The answer could not be understood, or the agent is gone.
    QuestionFailed = 12 "question_failed";
    NoEndpoints = 13 "no_endpoints";
    /// Somebody dialled the listener directly; there is no original destination.
    NotIntercepted = 14 "not_intercepted";
    UnknownDestination = 15 "unknown_destination";
    /// Strict mTLS and no tunnel.
    PlaintextRefused = 16 "plaintext_refused";
    /// A tunnel hello after the connection was already treated as plain.
    LateTunnelHello = 17 "late_tunnel_hello";
    UnsupportedMode = 18 "unsupported_mode";
    L7Unavailable = 19 "l7_unavailable";
    ConnectRefused = 20 "connect_refused";
    ConnectTimeout = 21 "connect_timeout";
    ConnectUnreachable = 22 "connect_unreachable";
    ConnectFailed = 23 "connect_failed";
    /// The policies that are known are older than the mesh allows for a STRICT workload.
    PoliciesStale = 24 "policies_stale";
    /// The plan or verdict lets only HTTP through.
    NotHttp = 25 "not_http";
    /// As many connections are open to the service as its ResiliencePolicy allows, and as many wait.
    ConnectionLimit = 26 "connection_limit";
    /// The Service wants an endpoint on the client's own node (`internalTrafficPolicy: Local`), and there is none.
    NoLocalEndpoint = 27 "no_local_endpoint";
    HandshakeTimeout = 30 "tls_handshake_timeout";
    CertificateExpired = 31 "tls_expired";
    CertificateNotYetValid = 32 "tls_not_yet_valid";
    WrongTrustDomain = 33 "tls_wrong_trust_domain";
    WrongIdentity = 34 "tls_wrong_identity";
    UnknownIssuer = 35 "tls_unknown_issuer";
    RootNotTrusted = 36 "tls_root_not_trusted";
    NoCertificate = 37 "tls_no_certificate";
    NoCommonAlpn = 38 "tls_no_common_alpn";
    CertificateInvalid = 39 "tls_certificate_invalid";
    /// The peer's alert refused our certificate.
    PeerRefusedUs = 40 "tls_peer_refused";
    HandshakeFailed = 41 "tls_handshake_failed";
    /// No SVID or no trust bundle has been given for this workload.
    NoSvid = 42 "tls_no_svid";
    /// The tunnel broke under an open stream.
    TunnelLost = 50 "tunnel_lost";
    TunnelProtocol = 51 "tunnel_protocol_error";
    PeerDraining = 52 "tunnel_peer_draining";
    PeerRefused = 53 "tunnel_refused";
    DrainDeadline = 60 "drain_deadline";
    PodGone = 61 "pod_gone";
    /// `connections.reset` without a reason of its own.
    Administrative = 62 "reset_by_agent";
    AgentStopping = 63 "agent_stopping";
    ResourceLimit = 64 "resource_limit";
    /// The thread that carried it died (a bug of ours).
    WorkerDied = 65 "worker_died";
    HandedOver = 70 "handed_over";
    HandoverFailed = 71 "handover_failed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_texts_are_unique_and_parse_back() {
        for (i, a) in Reason::ALL.iter().enumerate() {
            assert_eq!(Reason::parse(a.text()), Some(*a));
            assert_eq!(Reason::from_code(*a as u16), Some(*a));
            for b in &Reason::ALL[i + 1..] {
                assert!(a.text() != b.text());
            }
        }
        assert_eq!(Reason::parse("no such thing"), None);
    }
}
