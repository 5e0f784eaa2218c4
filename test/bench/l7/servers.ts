// The servers in the pods: nginx for HTTP/1.1 and HTTP/2, a gRPC server, a file of 16 MiB; and the gRPC message that clients post.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { fill } from "../peers.ts";
import { type Place, startIn } from "../place.ts";
import { answerBody, untilListening } from "../server.ts";
import { ports } from "./topology.ts";

export const BIG_BYTES = 16 * 1024 * 1024;
/** Unary, 1 KiB both ways. */
export const GRPC_PATH = "/bench.Echo/Say";

/** Starts nginx (8080, 8081) and, if asked for, the gRPC server (8082) in a pod; they end with its cgroup. */
export async function startServers(pod: Place, dir: string, withGrpc: boolean): Promise<void> {
  const home = join(dir, "nginx");
  const www = join(home, "www");
  mkdirSync(www, { recursive: true });
  writeFileSync(join(www, "big"), Buffer.alloc(BIG_BYTES, "big "));
  const config = fill("nginx-l7-server.conf", join(home, "nginx.conf"), { DIR: home, BODY: answerBody });
  const command = ["nginx", "-p", home, "-c", config, "-e", join(home, "error.log")];
  const web = startIn(pod, command, join(home, "out.log"));
  await untilListening(web.pid, ports.http, "nginx");
  if (!withGrpc) return;
  const script = join(dirname(fileURLToPath(import.meta.url)), "grpc-server.ts");
  const flags = ["--disable-warning=ExperimentalWarning"];
  const grpc = startIn(pod, [process.execPath, ...flags, script, String(ports.grpc)], join(home, "grpc.log"));
  await untilListening(grpc.pid, ports.grpc, "the gRPC server");
}

/** One message of 1 KiB with gRPC's five bytes before it, as a file for h2load. */
export function writeGrpcMessage(dir: string): string {
  const path = join(dir, "message.grpc");
  const message = Buffer.alloc(1024, "m");
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  writeFileSync(path, Buffer.concat([head, message]));
  return path;
}
