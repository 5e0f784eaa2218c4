// gRPC as a program in a pod: `serve PORT NAME` answers all four kinds of calls, `call HOST:PORT CALL...` makes calls one after the other
// and prints a line of JSON for each: its code, its message, who answered, what came.
import { Client, credentials, Metadata, type StatusObject } from "@grpc/grpc-js";
import { deadline, same } from "./grpc-bytes.ts";
import { grpcServer, path } from "./grpc-echo.ts";

export interface PodCall {
  readonly call: string;
  readonly code: number;
  readonly details: string;
  readonly pod: string;
  readonly trailer: string;
  readonly messages: number;
  readonly bytes: number;
}

interface Made {
  on(event: "error", fn: () => void): unknown;
  on(event: "metadata", fn: (head: Metadata) => void): unknown;
  on(event: "status", fn: (status: StatusObject) => void): unknown;
}

/** `One=text`, `Many=count`, `Sum=count`, `Chat=count`. */
function make(client: Client, call: string): Promise<PodCall> {
  const [kind = "", text = ""] = call.split("=");
  const count = Number(text);
  const metadata = new Metadata();
  const got = { pod: "", messages: 0, bytes: 0 };
  const take = (message: Buffer | undefined): void => {
    got.messages += message === undefined ? 0 : 1;
    got.bytes += message?.length ?? 0;
  };
  const done = (_error: unknown, message: Buffer | undefined): void => take(message);
  const message = Buffer.alloc(1000, "m");
  return new Promise((resolve) => {
    const finish = ({ code, details, metadata: trailers }: StatusObject): void => {
      const trailer = String(trailers.get("x-trailer")[0] ?? "");
      // The message of a unary call comes after its status.
      setImmediate(() => resolve({ call, code, details, trailer, ...got }));
    };
    const watch = (made: Made): void => {
      made.on("error", () => {});
      made.on("metadata", (head) => {
        got.pod = String(head.get("x-pod")[0] ?? "");
      });
      made.on("status", finish);
    };
    if (kind === "One")
      watch(client.makeUnaryRequest(path(kind), same, same, Buffer.from(text), metadata, deadline(), done));
    else if (kind === "Many") {
      const many = client.makeServerStreamRequest(path(kind), same, same, Buffer.from(text), metadata, deadline());
      many.on("data", take);
      watch(many);
    } else if (kind === "Sum") {
      const sum = client.makeClientStreamRequest(path(kind), same, same, metadata, deadline(), done);
      watch(sum);
      for (let i = 0; i < count; i++) sum.write(message);
      sum.end();
    } else {
      const chat = client.makeBidiStreamRequest(path("Chat"), same, same, metadata, deadline());
      let sent = 1;
      chat.on("data", (back: Buffer) => {
        take(back);
        // Each turn of the conversation answers the one before.
        if (sent++ < count) chat.write(message);
        else chat.end();
      });
      watch(chat);
      chat.write(message);
    }
  });
}

const [verb, where = "", ...rest] = process.argv.slice(2);
if (verb === "serve") await grpcServer(`[::]:${where}`, rest[0]);
else if (verb === "call") {
  const client = new Client(where, credentials.createInsecure());
  for (const call of rest) console.log(JSON.stringify(await make(client, call)));
  client.close();
}
