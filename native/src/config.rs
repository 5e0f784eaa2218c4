//! Settings given by `fl_start`: one JSON object, every knob with its default and unit (see `docs/native-channel.md`).

use serde::Deserialize;

use crate::tls::records::RECORDS_PER_KEY;

/// What the agent configures once. Unknown fields are ignored so that an older library runs under a newer agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    pub workers: usize,
    pub bpf_dir: String,
    pub pin_dir: String,
    pub cgroup: String,
    pub kubelet_cgroup: String,
    pub anti_spoofing: bool,
    pub interception: String,
    pub app_ports: (u16, u16),
    pub tunnel_ports: (u16, u16),
    pub question_timeout_ms: u64,
    pub handshake_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub tunnel_idle_ms: u64,
    pub tunnel_max_age_ms: u64,
    pub tunnel_max_age_jitter_ms: u64,
    pub detect_wait_ms: u64,
    pub permissive_wait_ms: u64,
    pub max_tunnels_per_pair: usize,
    pub max_handshakes_per_pair: usize,
    pub records_per_key: u64,
    pub buffer_bytes: usize,
    pub drain_ms: u64,
    pub heartbeat_ms: u64,
    pub heartbeat_dead_ms: u64,
    pub trust_domain: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 1,
            bpf_dir: String::new(),
            pin_dir: String::new(),
            cgroup: String::new(),
            kubelet_cgroup: String::new(),
            anti_spoofing: true,
            interception: "auto".into(),
            app_ports: (20_000, 32_000),
            tunnel_ports: (10_000, 20_000),
            question_timeout_ms: 1_000,
            handshake_timeout_ms: 5_000,
            connect_timeout_ms: 5_000,
            tunnel_idle_ms: 30_000,
            tunnel_max_age_ms: 300_000,
            tunnel_max_age_jitter_ms: 30_000,
            detect_wait_ms: 100,
            permissive_wait_ms: 100,
            max_tunnels_per_pair: 4_096,
            max_handshakes_per_pair: 32,
            records_per_key: RECORDS_PER_KEY,
            buffer_bytes: 65_536,
            drain_ms: 300_000,
            heartbeat_ms: 1_000,
            heartbeat_dead_ms: 10_000,
            trust_domain: "cluster.local".into(),
        }
    }
}

impl Config {
    /// Parses and bounds the settings; the error names the field and the fix.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config: Self = serde_json::from_str(text).map_err(|e| format!("config: {e}"))?;
        if config.workers == 0 || config.workers > 64 {
            return Err(format!("config.workers is {}: use 1 to 64", config.workers));
        }
        for (name, (lo, hi)) in [("appPorts", config.app_ports), ("tunnelPorts", config.tunnel_ports)] {
            if lo == 0 || lo >= hi {
                return Err(format!("config.{name} is [{lo}, {hi}]: use a range of at least two ports above 0"));
            }
        }
        if config.trust_domain.is_empty() {
            return Err("config.trustDomain is empty: set the trust domain, for example cluster.local".into());
        }
        // Below one TLS record nothing could be read at once; above 1 MiB a slow reader would cost too much.
        config.buffer_bytes = config.buffer_bytes.clamp(32_768, 1_048_576);
        config.max_tunnels_per_pair = config.max_tunnels_per_pair.max(1);
        config.max_handshakes_per_pair = config.max_handshakes_per_pair.max(1);
        // Never beyond what AES-GCM bears.
        config.records_per_key = config.records_per_key.clamp(1, RECORDS_PER_KEY);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_bad_field() {
        assert!(Config::parse(r#"{"workers":0}"#).unwrap_err().contains("workers"));
        assert!(Config::parse(r#"{"appPorts":[9,3]}"#).unwrap_err().contains("appPorts"));
        assert!(Config::parse("nonsense").unwrap_err().contains("config"));
    }

    #[test]
    fn takes_camel_case_and_defaults() {
        let c = Config::parse(r#"{"workers":2,"tunnelIdleMs":5,"later":true}"#).unwrap();
        assert_eq!((c.workers, c.tunnel_idle_ms, c.question_timeout_ms), (2, 5, 1_000));
    }
}
