// Config -> what native is started with.
import type { Config } from "../config.ts";
import type { NativeSettings } from "../native-calls.ts";

export function nativeSettings(config: Config): NativeSettings {
  return {
    workers: config.workers,
    bpfDir: config.bpfDir,
    pinDir: config.pinDir,
    cgroup: config.cgroup,
    kubeletCgroup: config.kubeletCgroup,
    interception: config.interception,
    antiSpoofing: config.antiSpoofing === "on",
    appPorts: config.appPorts,
    tunnelPorts: config.tunnelPorts,
    questionTimeoutMs: config.questionTimeoutMs,
    handshakeTimeoutMs: config.handshakeTimeoutMs,
    connectTimeoutMs: config.connectTimeoutMs,
    tunnelIdleMs: config.tunnelIdleMs,
    tunnelMaxAgeMs: config.tunnelMaxAgeMs,
    tunnelMaxAgeJitterMs: config.tunnelMaxAgeJitterMs,
    detectWaitMs: config.detectMs,
    permissiveWaitMs: config.permissiveWaitMs,
    maxTunnelsPerPair: config.maxTunnelsPerPair,
    maxHandshakesPerPair: config.maxHandshakesPerPair,
    bufferBytes: config.bufferBytes,
    drainMs: config.drainMs,
    heartbeatMs: config.heartbeatMs,
    heartbeatDeadMs: config.heartbeatDeadMs,
    trustDomain: config.trustDomain,
  };
}
